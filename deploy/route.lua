-- Orthanc sends each stable CT series of a head to the peer `ich`, and never what came from there.
-- LuaScripts in Orthanc's settings names this file, and DicomModalities the peer; see orthanc.json.

local PEER = 'ich'

local function isHead(tags)
  local part = string.upper(tags['BodyPartExamined'] or '')
  return part == '' or part == 'HEAD' or part == 'BRAIN' or part == 'SKULL'
end

function OnStableSeries(seriesId, tags, metadata)
  if metadata['RemoteAET'] == 'ICH' then
    return
  end
  if tags['Modality'] == 'CT' and isHead(tags) then
    local job = {Resources = {seriesId}, Synchronous = false} -- Orthanc repeats nothing by itself
    RestApiPost('/modalities/' .. PEER .. '/store', DumpJson(job, true))
  end
end
