"""Which devices have instructions for products of matrices in bfloat16."""

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than those in float32.

    Where torch emulates bfloat16 they are slower: on a CPU, a step of Muon takes one and a half
    (AVX-512) to twelve times (AVX2) as long (docs/benchmarks.md). GPUs before compute capability 8,
    such as a T4, emulate it too.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Without this function, early versions of torch do not tell; float32 is never slow.
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return True
