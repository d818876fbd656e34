"""Volumes to try the plugin on."""

from napari_samed3d.reader import LayerTuple, read_volumes, volume_layer

CT_URL = (
    "https://raw.githubusercontent.com/wasserth/TotalSegmentator/"
    "0e65a448d557382b1e925276212b3bec7f5aff83/tests/reference_files/example_ct.nii.gz"
)
CT_SHA256 = "dbd3ae6d614d1d7ef3a46925c30c70038ed52da6b37fdd6afdc7b9b71387e3e1"


def phantom() -> list[LayerTuple]:
    """A synthetic torso, CT-like; needs no network."""
    from backend.phantom import torso

    return [volume_layer(torso().volume, "phantom")]


def abdomen_ct() -> list[LayerTuple]:
    """The example CT of TotalSegmentator (Apache-2.0), downloaded once.

    Raises:
        SamMed3DError: there is no network, or the file is not the one expected.
    """
    import pooch

    from backend.errors import ErrorCode, SamMed3DError
    from backend.models.zoo import cache_folder

    try:
        path = pooch.retrieve(CT_URL, f"sha256:{CT_SHA256}", fname="example_ct.nii.gz", path=cache_folder())
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong digest is a ValueError
        raise SamMed3DError(
            ErrorCode.DOWNLOAD_FAILED,
            f"The sample CT could not be downloaded from {CT_URL} ({type(error).__name__}).",
            "Check the network, or use the synthetic phantom, which needs none.",
        ) from error
    return read_volumes(path)
