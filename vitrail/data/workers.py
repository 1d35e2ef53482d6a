"""How a loader's worker process behaves when its run is told to stop."""
import os
import signal
import threading


def quiet_worker(worker: int) -> None:
    """Leave Ctrl-C and SIGTERM to the main process, which saves first and then ends its workers itself.

    A terminal, torchrun and Slurm signal the whole process group. A worker that died of it would take the run
    down before it has saved. SIGTERM from the main process itself is obeyed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_parent_says, args=(os.getppid(),), daemon=True).start()


def _end_when_parent_says(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
