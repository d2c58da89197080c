"""The version, which the package, hatch, provenance and manifests read."""

__version__ = "0.1.0"
