# Generated from openapi.yaml. Edit templates/ and run `make generate`.
from cms_python.api.tracking_api import TrackingApi

__all__ = ["TrackingApi"]
