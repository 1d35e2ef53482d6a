"""The end of a run: its best weights become the finished model."""
import torch

from vitrail.core.errors import CheckpointError, TrainingError
from vitrail.core.seeds import derive_seed
from vitrail.training import disk, restore
from vitrail.training.checkpoint import Checkpoints, state_of
from vitrail.training.run import Run
from vitrail.training.state import Best, State
from vitrail.training.objective import Objective


def hand_over(objective: Objective, state: State, best: Best | None, store: Checkpoints, run: Run, seed: int) -> int:
    """Saves the best weights, or the last where none are given, as the run's model: the step they are of.

    Read from the checkpoint, whose every bit is compared, so that a run of any strategy ends the same way. Raises
    CheckpointError where no checkpoint of the end is whole, TrainingError where the disk refuses.
    """
    path = store.whole(best.step) if best else None
    if best and path is None:
        store.say("the best weights are lost: the finished model gets the last ones")
    if (path := path or store.whole(state.step)) is None:
        raise CheckpointError(f"{store.folder} holds no whole checkpoint of the end: run the same command again")
    torch.manual_seed(derive_seed(seed, "model"))
    there = state_of(path)
    model = restore.finished(objective.model(), path, there)
    aside, old = run.folder / ".model.new", run.folder / ".model.old"
    try:
        disk.remove(aside)
        aside.mkdir()
        objective.save(model, aside)
        for file in aside.rglob("*"):
            disk.flush_folder(file) if file.is_dir() else disk.flush_file(file)
        disk.flush_folder(aside)
        if run.model.exists():              # of a start that was killed before it could note its end
            disk.remove(old)
            disk.rename(run.model, old)
        disk.rename(aside, run.model)
        disk.remove(old)
    except OSError as e:
        disk.remove(aside)
        raise TrainingError(f"the finished model cannot be written into {run.model}: {e.strerror or e}") from e
    return there.step
