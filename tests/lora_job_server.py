"""The server behind `tests.lora_job`. Usage: python -m tests.lora_job_server SOCKET PARENT"""

import array
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path

LIBRARIES = (
    *("job.cli.commands", "job.attempt", "job.pipeline", "job.plan", "job.run.collect", "job.run.status"),
    *("job.storage.s3.store", "boto3", "matplotlib.figure", "matplotlib.backends.backend_agg", "peft", "accelerate"),
    *("skimage.filters.thresholding", "skimage.measure", "skimage.morphology"),
    *("diffusers.models.unets.unet_2d_condition", "diffusers.models.autoencoders.autoencoder_kl"),
    *("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "diffusers.schedulers.scheduling_ddpm"),
    *("transformers.models.blip.modeling_blip", "transformers.models.blip.processing_blip"),
    *("transformers.models.blip.image_processing_pil_blip", "transformers.models.bert.tokenization_bert"),
    *("transformers.models.clip.modeling_clip", "transformers.models.clip.processing_clip"),
    *("transformers.models.auto.modeling_auto", "transformers.models.auto.processing_auto"),
    *("transformers.models.blip.image_processing_blip", "transformers.models.clip.image_processing_pil_clip"),
    *("diffusers.schedulers.scheduling_unipc_multistep", "diffusers.schedulers.scheduling_edm_euler"),
    *("diffusers.schedulers.scheduling_k_dpm_2_discrete", "diffusers.schedulers.scheduling_dpmsolver_singlestep"),
    *("diffusers.schedulers.scheduling_deis_multistep", "diffusers.schedulers.scheduling_k_dpm_2_ancestral_discrete"),
    *("matplotlib.backends.backend_svg", "job.report.closing", "job.cli.exit", "multiprocessing.popen_spawn_posix"),
)


def serve(address: str, parent: int) -> None:
    """Fork a process for every command that is asked for at the socket, until the process `parent` ends."""
    _warm()
    assert threading.active_count() == 1, f"a fork would lose {threading.enumerate()}"
    gc.freeze()  # Otherwise the first collection of garbage in every child would copy all pages of memory.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(16)
        while os.getppid() == parent:
            if select.select([server], [], [], 1.0)[0]:
                connection, _ = server.accept()
                if os.fork() == 0:
                    server.close()
                    _supervise(connection)
                connection.close()
    Path(address).unlink()


def _warm() -> None:
    """Do once what every command would do anew: import libraries, compile patterns and templates, read fonts."""
    importlib.import_module("lora_engine.system.quiet").quiet_libraries()
    for name in LIBRARIES:
        importlib.import_module(name)
    # The first model that a command loads would otherwise compile this table of thousands of patterns, every time.
    importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("blip")
    templates = importlib.import_module("job.report.templating").environment()
    for name in templates.list_templates(extensions=["j2"]):
        templates.get_template(name)
    figure = importlib.import_module("matplotlib.figure").Figure()
    figure.text(0, 0, "0123456789 abcdefghijklmnopqrstuvwxyz")
    figure.savefig(io.BytesIO(), format="png")
    importlib.import_module("PIL.Image").init()


def _supervise(connection: socket.socket) -> None:
    """Fork the command, send its process id, wait for it, send its exit code, and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not connection.recv(1, socket.MSG_PEEK):
        os._exit(0)  # Somebody only wanted to know whether there is a server.
    request, (stdout, stderr) = _receive(connection)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _run(request, stdout, stderr)
    connection.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _receive(connection: socket.socket) -> tuple[dict[str, object], tuple[int, int]]:
    data, ancillary, _, _ = connection.recvmsg(2**16, socket.CMSG_SPACE(2 * 4))
    descriptors = array.array("i")
    descriptors.frombytes(ancillary[0][2])
    while more := connection.recv(2**16):
        data += more
    return json.loads(data), (descriptors[0], descriptors[1])


def _run(request: dict[str, object], stdout: int, stderr: int) -> None:
    """Run `lora-job`, or a program, with what the request says, and end this process with its exit code."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    os.chdir(str(request["cwd"]))
    code: object = 1
    try:
        if "program" in request:
            exec(str(request["program"]), {"__name__": "__main__"})
            code = 0
        else:
            sys.argv = ["lora-job", *request["arguments"]]  # type: ignore[misc]
            from job.cli.commands import app
            from job.cli.exit import run_to_exit

            run_to_exit(app)
    except SystemExit as end:
        code = end.code
    except Exception:  # noqa: BLE001 - the interpreter, too, ends so
        traceback.print_exc()
    # The child ends as the interpreter does, which waits for its threads, but without the server's own end.
    threading._shutdown()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
