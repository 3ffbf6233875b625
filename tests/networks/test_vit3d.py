# Copyright (c) monai_u2 contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

from __future__ import annotations

import pytest
import torch

from monai_u2.networks import ConvolutionalStem, ViT3D, relative_windows

SIZES = {"hidden_size": 48, "mlp_dim": 96, "num_layers": 2, "num_heads": 4}


def test_patch_tokens_are_in_raster_order() -> None:
    torch.manual_seed(0)
    vit = ViT3D((8, 32, 48), (4, 8, 8), **SIZES).eval()
    assert vit.grid == (2, 4, 6)
    image = torch.zeros(1, 1, 8, 32, 48)
    image[0, 0, 4:8, 8:16, 40:48] = 1.0  # the patch at (1, 1, 5)
    embedded = vit.patch_embedding.patch_embeddings(image)[0]
    changed = (embedded - embedded[0]).abs().sum(-1) > 1e-6
    assert changed.nonzero().flatten().tolist() == [1 * 24 + 1 * 6 + 5]
    assert vit(image).shape == (1, 48, 48)


def test_every_parameter_is_used() -> None:
    vit = ViT3D((8, 32, 32), (4, 8, 8), **SIZES)
    vit(torch.rand(2, 1, 8, 32, 32)).square().sum().backward()
    assert [name for name, parameter in vit.named_parameters() if parameter.grad is None] == []


def test_sizes_must_divide() -> None:
    with pytest.raises(ValueError, match=r"image_size \(30, 256, 256\) must be divisible by patch_size \(4, 16, 16\)"):
        ViT3D((30, 256, 256))


def test_slabs_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"slab size \(8, 32, 40\) must be image_size \(8, 32, 32\)"):
        ViT3D((8, 32, 32), (4, 8, 8), **SIZES)(torch.rand(1, 1, 8, 32, 40))


def test_stem_sees_each_window_alone() -> None:
    """What lies outside of every window changes nothing; what lies in one of them does."""
    torch.manual_seed(0)
    stem = ConvolutionalStem((4, 4, 4), [8], 16, windows=[(0.0, 0.25), (0.75, 1.0)]).eval()
    image = torch.full((1, 1, 4, 8, 8), 0.3)
    assert torch.equal(stem(image), stem(image + 0.2))
    assert not torch.allclose(stem(image), stem(image - 0.2))


def test_stem_keeps_absolute_intensities() -> None:
    """In evaluation a volume's own mean isn't taken out."""
    torch.manual_seed(0)
    stem = ConvolutionalStem((4, 4, 4), [8], 16)
    for _ in range(3):
        stem(torch.rand(4, 1, 8, 8, 8))
    stem.eval()
    assert not torch.allclose(stem(torch.full((1, 1, 8, 8, 8), 0.2)), stem(torch.full((1, 1, 8, 8, 8), 0.8)), atol=0.05)


def test_bad_windows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"intensity window \(0.5, 0.5\)"):
        ViT3D((8, 32, 32), (4, 4, 4), **SIZES, stem_channels=[8], stem_windows=[(0.5, 0.5)])
    with pytest.raises(ValueError, match="give stem_channels too"):
        ViT3D((8, 32, 32), (4, 4, 4), **SIZES, stem_windows=[(0.0, 0.5)])
    with pytest.raises(ValueError, match="bone window 150 to 1200 HU must lie in the range -1000 to 1000 HU"):
        relative_windows({"bone": (150, 1200)}, (-1000, 1000))


def test_windows_in_hu() -> None:
    windows = relative_windows({"lung": (-1000, 0), "bone": (200, 600)}, (-1000, 1000))
    assert windows == [pytest.approx((0.0, 0.5)), pytest.approx((0.6, 0.8))]
