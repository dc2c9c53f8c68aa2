"""Builds the wheel with conf/ in it, as mobilellm/conf; pyproject.toml holds everything else."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfiguration(build_py):
    """Copy conf/ into the package; an editable install reads the clone's own folder."""

    def run(self) -> None:
        """Build the package, then copy."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "mobilellm" / "conf"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree("conf", target)


setup(cmdclass={"build_py": BuildWithConfiguration})
