"""Whether the model hub, from which timm loads pretrained weights, is within reach."""

from __future__ import annotations

from huggingface_hub import constants, get_session

_PATIENCE = 3  # seconds


def is_switched_off() -> bool:
    """Whether the environment tells the library of the hub not to use the network (``HF_HUB_OFFLINE=1``)."""
    return bool(constants.HF_HUB_OFFLINE)


def answers() -> bool:
    """Asks the hub once, briefly, because the retries of its library take almost a minute."""
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception:  # of whichever HTTP library is in use: the hub is out of reach all the same
        return False
    return True
