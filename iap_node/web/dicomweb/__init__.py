"""DICOMweb (PS3.18): storing by STOW-RS, at /dicomweb. Nothing is found or retrieved here."""
