"""The command line: parse, call, print. One module a command, imported when that command runs.

`--help` of the group and of every command loads none of numpy, torch, onnx, onnxruntime or tensorrt: the command modules
import the rooms that they call inside their functions.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import click

from alexnet_deploy import __version__
from alexnet_deploy.cli import ending, streams, verbosity

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# name -> one line for the overview. The module is alexnet_deploy.cli.<name with _ for ->, its command `command`.
COMMANDS = {
    "demo": "The whole way, from training to a report, on the embedded data.",
    "train": "Train an AlexNet on a folder of pictures, or on the demo data.",
    "evaluate": "Accuracy of any artifact on labelled pictures.",
    "export": "Checkpoint to ONNX, compared with PyTorch before it is written.",
    "adopt": "Write a manifest for an ONNX classifier made by someone else.",
    "build-engine": "ONNX to a TensorRT engine: FP32, FP16, BF16, INT8 or FP8.",
    "predict": "Classify pictures with any artifact.",
    "score": "Any number of pictures into Parquet; resumable, on one machine or on Ray.",
    "package": "A deployment in one file, with checksums and a signature.",
    "serve": "Artifacts behind HTTP and gRPC, as Triton and KServe speak it.",
    "triton-repo": "A model repository for NVIDIA's Triton Inference Server.",
    "verify": "Compare artifacts with a reference; exit code 1 when a gate is missed.",
    "bench": "Latency and throughput of artifacts, side by side.",
    "tune": "The fastest way to run a model on this machine, kept for Runtime.",
    "inspect": "What is in an artifact, without running it.",
    "doctor": "What this machine can run, and what to install for the rest.",
    "completion": "What bash, zsh or fish needs to complete commands, options and files.",
}


class LazyGroup(click.Group):
    """A group that knows the names of its commands and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"{__name__}.{name.replace('-', '_')}")
        return cast(click.Command, module.command)

    def main(self, *args: Any, **extra: Any) -> Any:
        streams.prepare()
        return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)
        except OSError as error:  # --help and --version print
            from alexnet_deploy.cli.common import unwritten

            raise click.exceptions.Exit(unwritten(error)) from error

    def invoke(self, ctx: click.Context) -> Any:
        # Not in a command: its module is imported within, and click's own exit code, 1, would say that a gate was missed.
        try:
            with ending.by_exception():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            from alexnet_deploy.cli.common import INTERRUPTED, say_stopped

            say_stopped("interrupted")
            ctx.exit(INTERRUPTED)
        except SystemExit:  # SIGTERM: nothing else ends a command so
            from alexnet_deploy.cli.common import say_stopped

            say_stopped("terminated")
            raise
        except OSError as error:
            from alexnet_deploy.cli.common import unwritten

            ctx.exit(unwritten(error))
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception:
            from alexnet_deploy.cli.common import mistaken

            mistaken(ctx)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click has it, with the name that was probably meant."""
        from difflib import get_close_matches

        if near := get_close_matches(args[0], [] if args[0] in COMMANDS else list(COMMANDS), n=1):
            ctx.fail(f"No such command '{args[0]}'. Did you mean {near[0]}?")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Our own names, so that no command is imported to complete another; then the group's options."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=line) for name, line in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="alexnet-deploy")
def main() -> None:
    """From a trained AlexNet to a running engine, with proof.

    \b
    Example:
      alexnet-deploy train --data photos -o models/alexnet.safetensors
      alexnet-deploy export models/alexnet.safetensors
      alexnet-deploy build-engine --int8
      alexnet-deploy predict models/alexnet.int8.plan picture.jpg

    Options can be set once, in alexnet-deploy.toml or as ALEXNET_DEPLOY_TRAIN_EPOCHS=30: see docs/howto/settings.md.
    """
    # libgomp reads it when torch is imported: its threads spin at barriers otherwise, 100 times slower where cores are shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


main.params += verbosity.options()
