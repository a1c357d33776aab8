"""Version and platform of the wheel, from what scripts/wheel says."""
import os

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface


class Version(MetadataHookInterface):
    def update(self, metadata):
        metadata["version"] = os.environ["SPARING_WHEEL_VERSION"]


class Platform(BuildHookInterface):
    def initialize(self, version, build_data):
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + os.environ["SPARING_WHEEL_PLATFORM"]
