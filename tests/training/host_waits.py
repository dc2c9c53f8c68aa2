"""Training on a device whose values cannot be read: torch's meta device stands for a GPU.

Reading a value, `nonzero` and boolean indexing raise an error there, and the copies that the host
waits for are recorded. So a step that runs without either needs no answer from the device.
"""

from contextlib import contextmanager

import torch
from lightning.pytorch import Callback
from small_run import make_data, make_module
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mobilellm.optim import muon
from mobilellm.training.trainer import TrainerConfig, make_trainer

META = torch.device("meta")
# Each of these builds a tensor from Python numbers on the host, and copies it to the device.
FROM_NUMBERS = {torch.tensor, torch.as_tensor, torch.Tensor.new_tensor}
COPIES = {"aten::_to_copy", "aten::copy_"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
READS = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::bincount",
    "aten::unique_consecutive", "aten::_unique2", "aten::equal", "aten::is_nonzero",
    "aten::repeat_interleave.Tensor",
}  # fmt: skip


class _Operations(TorchDispatchMode):
    """Operators that read the device, and copies between host and device that wait."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name, tensors = func._schema.name, _tensors([args, kwargs])
        devices = {t.device.type for t in [*tensors, *_tensors(result)]}
        if name in COPIES and len(devices) > 1 and not _is_non_blocking(name, args, kwargs):
            self.found.append(f"{name} between {' and '.join(sorted(devices))}")
        elif name in INDEXED:
            if "meta" in devices and any(t.dtype == torch.bool for t in _tensors(args[1])):
                self.found.append(f"{name} by a mask")
        elif "meta" in devices and not READS.isdisjoint({name, f"{name}.{func._overloadname}"}):
            self.found.append(name)
        return result


class _Calls(TorchFunctionMode):
    """Calls that make a tensor on the device from Python numbers, which the meta device skips."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in FROM_NUMBERS and not _tensors(args[:1]) and result.device.type == "meta":
            self.found.append(f"{func.__name__} from numbers")
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if args[0].device.type == "meta" and any(isinstance(i, list) for i in index):
                self.found.append(f"{func.__name__} by a list")
        return result


@contextmanager
def watched(found):
    """Add to `found` what the host would wait for."""
    with _Calls(found), _Operations(found):
        yield


def _tensors(values):
    if isinstance(values, torch.Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return []
    return [tensor for value in values for tensor in _tensors(value)]


def _is_non_blocking(name, args, kwargs):
    return kwargs.get("non_blocking", False) or (name == "aten::copy_" and True in args[2:])


class Watch(Callback):
    """Ends the run after some steps, before Lightning moves the model back to the host.

    What the first step waits for is not counted: it makes what the later ones use.
    """

    def __init__(self, found, steps):
        self.found, self.steps = found, steps

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 1:
            self.found.clear()
        if trainer.global_step == self.steps:
            raise StopHere


class StopHere(Exception):
    """The watched steps are done."""


class DeviceAdamW(torch.optim.AdamW):
    """Stands for torch's fused AdamW, which refuses steps on the device but not on this one."""

    _step_supports_amp_scaling = True

    def step(self, closure=None):
        refused = self.__dict__.pop("found_inf", None)
        super().step(closure)
        self.found_inf = refused


def device_muon(model, learning_rate):
    """Muon, with this AdamW for the rest."""
    optimizer = muon(model, learning_rate=learning_rate)
    optimizer._parts["adamw"] = DeviceAdamW(optimizer._parts["adamw"].param_groups)
    optimizer._step_supports_amp_scaling = True
    return optimizer


def host_waits(*callbacks, model=None, data=None, steps=2):
    """What the host waits for in steps that are not logged, as a list of words."""
    found = []
    module = make_module(steps + 1, model=model, start=False, optimizer=device_muon)
    module.is_logged = module.is_validated = lambda *_, **__: False
    trainer = make_trainer(
        TrainerConfig(accelerator="cpu"),
        max_steps=steps + 1,
        callbacks=[*callbacks, Watch(found, steps)],
    )
    trainer.strategy._root_device = META
    trainer.strategy.setup_environment = trainer.strategy.teardown = lambda: None
    data = make_data(4) if data is None else data
    try:
        with watched(found):
            trainer.fit(module, datamodule=data)
    except StopHere:
        return found
    raise AssertionError("the run ended before the watched steps")
