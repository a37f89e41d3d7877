import pytest


@pytest.mark.parametrize("case", ["inference", "mezo/layerwise", "mezo/in_place"])
def test_smoke_each_case_has_a_peak(case):
    import memory

    if not memory.is_supported():
        pytest.skip("the peak of resident memory can only be reset on Linux")
    peak = memory.run_case(case, "tiny", "float32")
    assert 0 < peak.libraries_bytes <= peak.peak_bytes + (64 << 20)
    assert peak.own_bytes == peak.peak_bytes - peak.libraries_bytes


def test_the_largest_owner_is_the_token_embedding():
    from workload import SHAPES, build_model

    shape = SHAPES["tiny"]
    owners = (sum(p.numel() for p in m.parameters(recurse=False)) for m in build_model(shape).modules())
    assert max(owners) == shape.largest_owner_elements
