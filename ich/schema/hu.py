"""Hounsfield units of what a head CT shows. Checks and pages take their ranges from here.

Each is a pair (lowest, highest) or a limit. If a material has several, the comment says why a check needs
another one. The phantom has its own values, because the reader is tested against it.
"""

from __future__ import annotations

from ich.schema import AIR_HU

MOST_HU = 32767
"""The highest value, that of 16 bits; ``ich.schema.AIR_HU`` is the lowest."""

PURE_AIR = -1000
AIR = (AIR_HU, -950)  # pure air with its noise
AIR_AT_EDGES = (-1030.0, -960.0)  # mean at the edges of a slice on the right scale
AIR_AROUND = (AIR_HU, -850)  # around a head: some archives cut off at -900
ANY_AIR = (AIR_HU, -500)  # for its share of a slice: a pixel that is half air and half fat counts too
AIR_WITHIN = -400  # at most, in nose and sinuses: a pixel of a small cavity is half tissue

SOLID = -700  # at least: a table or a head holder
BODY = -300  # at least: skin is above, pads and cushions are below
NEITHER = (-850, -200)  # neither air nor tissue: above the air around a head, below any fat

WATER = (-5, 15)  # cerebrospinal fluid
GRAY_AND_WHITE = (20, 45)  # matter
BLOOD = (50, 90)  # acute
TISSUE = (0, 100)  # from fluid over gray matter to blood
MUSCLE_AND_BRAIN = (10, 150)  # for the outline of a head: without fluid, with calcification
NEAR_TISSUE = (-150, 150)  # also on a scale that is wrong by a hundred, which the check looks for
HARD = (150, 300)  # denser than tissue, softer than bone
BONE = (300, MOST_HU)  # and metal
BONE_ALONE = (300, 2000)  # without metal

USUAL_BRAIN = 35.0
PEAK_SOUGHT = (-200, 300)  # range of the search for the most frequent value, without air
BRAIN_PEAK = (10, 55)  # most frequent value of a data set: white matter from 20, gray to 45
BRAIN_MIDDLE = (3.0, 65.0)  # median in a slice, a bleeding one included: water has 0
BRAIN_SCALE = (14.0, 50.0)  # median of these in a series, which vary less

SHOWN = (-1000, 800)  # where two sides of a head are compared: brighter metal would outweigh the rest
