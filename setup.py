"""Build the package: cdb_loss.py becomes cdb_loss/__init__.py, beside which py.typed says that it has types."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildTyped(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # pip install -e: the files stay where they are
            return
        package = Path(self.build_lib, "cdb_loss")
        package.mkdir(exist_ok=True)
        Path(self.build_lib, "cdb_loss.py").replace(package / "__init__.py")
        for folder in (package, Path(self.build_lib, "longtail")):
            (folder / "py.typed").touch()


setup(cmdclass={"build_py": BuildTyped})
