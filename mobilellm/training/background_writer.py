"""Write files in a thread, one at a time, from a copy in the memory of the host."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


class BackgroundWriter:
    """Runs tasks in a thread, in order. After an error, the tasks that follow are dropped.

    The error is raised once, by the next call of any method, in the calling thread. The process
    does not end before the tasks have, because the thread is not a daemon.
    """

    def __init__(self) -> None:
        """Start without a task."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: list[Future[Any]] = []

    def add(self, task: Callable[[], Any]) -> None:
        """Run a task after those before it.

        Raises:
            Exception: the error of an earlier task; the new one is not started.
        """
        self.check()
        before = self._running[-1] if self._running else None
        self._running.append(self._executor.submit(_run_after, before, task))

    def check(self) -> None:
        """Raise the error of a task that has failed; does not wait.

        Raises:
            Exception: what the task raised.
        """
        if any(future.done() and future.exception() is not None for future in self._running):
            self.wait()
        self._running = [future for future in self._running if not future.done()]

    def wait(self) -> None:
        """Wait until all tasks have ended.

        Raises:
            Exception: what a task raised.
        """
        futures, self._running = self._running, []
        wait(futures)
        for future in futures:
            future.result()


def _run_after(before: "Future[Any] | None", task: Callable[[], Any]) -> None:
    if before is None or before.exception() is None:
        task()


def host_copy(value: Any) -> Any:
    """Copy plain data; tensors are copied to the CPU, also if they are there already.

    Args:
        value: nested dicts, lists and tuples of tensors, numbers and strings.
    """
    if is_traceable_wrapper_subclass(value) and not isinstance(value, DTensor):
        # Moments of 8 bits are several tensors, and their own conversion copies only some of them.
        names, context = value.__tensor_flatten__()
        parts = {name: host_copy(getattr(value, name)) for name in names}
        size, stride = value.size(), value.stride()
        return type(value).__tensor_unflatten__(parts, context, size, stride)
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        # The type is kept: state dicts are OrderedDicts with metadata.
        copied = value.copy()
        copied.update({key: host_copy(entry) for key, entry in value.items()})
        return copied
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(host_copy(entry) for entry in value))
    if isinstance(value, list | tuple):
        return type(value)(host_copy(entry) for entry in value)
    return value
