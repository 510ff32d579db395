"""Another model in the middle of a conversation."""

from __future__ import annotations

from dataclasses import replace

from localllm.chat.far import FarSession, open_far
from localllm.chat.session import LoadWishes, Session, open_wished, target_for, wished_plan
from localllm.chat.settings import ChatSettings
from localllm.errors import LocalLLMError
from localllm.formats.gguf import read_model
from localllm.library.answering import Far
from localllm.placement import Plan, does_not_fit, plan_for, this_machine
from localllm.registry import Model
from localllm.ui import Progress


def switch(
    session: Session | FarSession,
    model: Model | Far,
    wishes: LoadWishes,
    progress: Progress,
    settings: ChatSettings,
) -> Session | FarSession:
    """Open `model` in place of the one of `session`, which is closed then.

    If it fits as well beside the old one as alone, the old one stays until the new one is loaded.
    If not, it is checked that it fits alone before the old one goes, and should loading fail all
    the same, the old one is loaded again into the same object. So whatever is raised, `session`
    stays usable. Raises what `open_wished` raises.
    """
    # Adapters, draft, projector and template belong to the model they were given with
    before, wishes = wishes, replace(wishes, adapters=(), draft=None, mmproj=None, template=None)
    if not isinstance(model, Model):
        # placement and the like are for the models that come after it
        far = open_far(model, LoadWishes(wishes.plan), settings)
        session.close()
        return far
    if isinstance(session, FarSession):
        opened = open_wished(model, wishes, progress)
        session.close()
        return opened
    beside, alone = _plans(model, wishes, session)
    if beside.runs and beside.n_offloaded >= alone.n_offloaded:
        opened = open_wished(model, wishes, progress)
        session.close()
        return opened
    if not alone.runs and not wishes.force:
        raise does_not_fit(model.path.name, alone)
    session.close()
    try:
        return open_wished(model, wishes, progress)
    except (LocalLLMError, KeyboardInterrupt):
        restore(session, before, progress)
        raise


def restore(session: Session, wishes: LoadWishes, progress: Progress) -> None:
    """Load the model of a closed session again, into the same object."""
    again = open_wished(session.model, replace(wishes, force=True), progress)
    for name in ("generator", "opened", "tuned", "drafting", "mmproj"):
        setattr(session, name, getattr(again, name))
    session.__dict__.pop("prompting", None)  # they were the closed model's
    session.__dict__.pop("sampling", None)


def _plans(model: Model, wishes: LoadWishes, session: Session) -> tuple[Plan, Plan]:
    """`model` beside the one of `session`, and in the memory that is free once that is gone."""
    shape, target = read_model(model.path), this_machine()
    held = session.opened.plan
    by_name = {need.name: need.total_bytes for need in held.devices}
    gpus = tuple(
        replace(gpu, free_bytes=gpu.free_bytes + by_name.get(gpu.name, 0)) for gpu in target.gpus
    )
    freed = replace(
        target, gpus=gpus, host_available_bytes=target.host_available_bytes + held.host.total_bytes
    )
    plan = wished_plan(model, wishes)
    return (
        plan_for(shape, target_for(model, wishes, target), plan),
        plan_for(shape, target_for(model, wishes, freed), plan),
    )
