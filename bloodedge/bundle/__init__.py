"""A bundle: a zip (or a folder) of converted networks with a manifest that vouches for every file in it."""

from bloodedge.bundle.packing import zip_files, zip_folder
from bloodedge.bundle.reading import MANIFEST, REPORT, SIGNATURE, Bundle, is_bundle

__all__ = ["MANIFEST", "REPORT", "SIGNATURE", "Bundle", "is_bundle", "zip_files", "zip_folder"]
