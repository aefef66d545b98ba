import jax
import jax.numpy as jnp
import pytest
from jax import lax

from mta_jax.plan.instruction_costs import instruction_costs
from mta_jax.plan.instructions import instructions_of

PROGRAM = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%product (p0: bf16[6,256,128], p1: s32[], p2: bf16[128,96]) -> bf16[256,96] {
  %p0 = bf16[6,256,128]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = bf16[128,96]{1,0} parameter(2)
  %same = bf16[6,256,128]{2,1,0} bitcast(%p0)
  %layer = bf16[1,256,128]{2,1,0} dynamic-slice(%same, %p1, %z, %z), dynamic_slice_sizes={1,256,128}
  %flat = bf16[256,128]{1,0} bitcast(%layer)
  ROOT %out = bf16[256,96]{1,0} convolution(%flat, %p2), dim_labels=bf_io->bf
}

%update (p0: f32[6,256], p1: f32[1,256], p2: s32[]) -> f32[6,256] {
  %p0 = f32[6,256]{1,0} parameter(0)
  %p1 = f32[1,256]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  ROOT %out = f32[6,256]{1,0} dynamic-update-slice(%p0, %p1, %p2, %p2)
}

%beside (p0: bf16[64,96], p1: bf16[256,96], p2: f32[8,128]) -> (f32[8,128]) {
  %p0 = bf16[64,96]{1,0} parameter(0)
  %p1 = bf16[256,96]{1,0} parameter(1)
  %p2 = f32[8,128]{1,0} parameter(2)
  %gathered = bf16[256,96]{1,0} all-gather(%p0), channel_id=4, dimensions={0}
  %twice = f32[8,128]{1,0} add(%p2, %p2)
  ROOT %out = (f32[8,128], bf16[64,96], bf16[256,96]) tuple(%twice, %p0, %p1, %gathered)
}

%body (t: (s32[], bf16[6,256,128])) -> (s32[], bf16[6,256,128]) {
  %t = (s32[], bf16[6,256,128]) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %w = bf16[6,256,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%t), index=1
  %near = bf16[128,96]{1,0:T(8,128)(2,1)S(1)} custom-call(), custom_call_target="AllocateBuffer"
  %y = bf16[256,96]{1,0:T(8,128)(2,1)} fusion(%w, %i, %near), kind=kOutput, calls=%product, \
metadata={op_name="jit(step)/while/body/dot_general"}, \
backend_config={"window_config":{"estimated_cycles":"70"}}
  %acc = f32[6,256]{1,0} fusion(%old, %row, %i), kind=kLoop, calls=%update
  %old = f32[6,256]{1,0} copy(%near_old)
  %row = f32[1,256]{1,0:S(1)} broadcast(%i)
  %attended = bf16[256,96]{1,0} custom-call(%y), custom_call_target="tpu_custom_call", \
metadata={op_name="jit(step)/while/body/shard_map/kernel"}
  %sent = bf16[1024,96]{1,0} all-gather(%y), dimensions={0}
  ROOT %out = (s32[], bf16[6,256,128]) tuple(%i, %w)
}

%condition (t: (s32[], bf16[6,256,128])) -> pred[] {
  %t = (s32[], bf16[6,256,128]) parameter(0)
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%i, %five), direction=LT
}

ENTRY %main (x: f32[100]) -> f32[] {
  %x = f32[100]{0:T(128)} parameter(0)
  %loop = (s32[], bf16[6,256,128]) while(%t), condition=%condition, body=%body
  %moved = (f32[100]{0:T(128)S(1)}, f32[100]{0:T(128)}, u32[]{:S(2)}) copy-start(%x)
  %there = f32[100]{0:T(128)S(1)} copy-done(%moved)
  %some = ((f32[100]{0}), f32[40]{0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:40]}
  %both = (f32[8,128]{1,0}, bf16[64,96]{1,0}, bf16[256,96]{1,0}, bf16[256,96]{1,0}) \
fusion(%shard, %whole, %other), kind=kLoop, calls=%beside
  %shard = bf16[64,96]{1,0} parameter(1)
  %whole = bf16[256,96]{1,0} parameter(2)
  %other = f32[8,128]{1,0} parameter(3)
  %part = f32[10]{0} slice(%x), slice={[0:10]}
  ROOT %total = f32[] reduce(%x, %x), to_apply=%add
}
"""


@pytest.fixture(scope="module")
def costs():
    return {cost.name: cost for cost in instruction_costs(PROGRAM)}


def test_only_what_costs_something_is_there(costs):
    in_loop = {"y", "acc", "old", "row", "attended", "sent"}
    assert set(costs) == in_loop | {"moved", "some", "both", "part", "total"}
    assert {costs[name].runs for name in in_loop} == {5}
    assert costs["total"].runs == 1


def test_products_inside_fusions_count(costs):
    assert costs["y"].flops == 2 * 256 * 96 * 128
    assert costs["y"].cycles == 70
    assert costs["y"].op_name == "jit(step)/while/body/dot_general"
    assert costs["total"].flops == 0
    assert costs["total"].cycles is None


def test_of_a_slice_counts_what_it_takes_and_memory_on_the_chip_is_free(costs):
    # One layer of six, and a result whose rows of 96 are laid out as 128; nothing of %near.
    assert costs["y"].bytes == 2 * (256 * 128 + 256 * 128) + 4
    assert costs["part"].bytes == 2 * 4 * 10


def test_of_an_update_in_place_counts_what_it_writes(costs):
    assert costs["acc"].bytes == 4 * 256 + 4


def test_a_collective_inside_a_fusion_goes_on_beside_it(costs):
    assert costs["both"].bytes == 2 * 4 * 8 * 128


def test_an_operand_that_is_taken_twice_is_read_once(costs):
    assert costs["total"].bytes == 4 * 128 + 4


def test_roles(costs):
    assert {name for name, cost in costs.items() if cost.role == "kernel"} == {"attended"}
    assert {name for name, cost in costs.items() if cost.role == "network"} == {"sent"}
    transfers = {name: cost.bytes for name, cost in costs.items() if cost.role == "transfer"}
    assert transfers == {"moved": 4 * 128, "some": 4 * 40}


def test_tiles_that_are_filled_in_part_count_whole():
    line = "  %x = bf16[3,5,96]{1,2,0:T(8,128)(2,1)S(1)} copy(%y)"
    (array,) = instructions_of([line])["x"].results
    # Of the dimensions, the one of 5 lies innermost.
    assert array.bytes == 2 * 3 * 96 * 128
    assert not array.is_in_hbm


def test_a_loop_of_a_compiled_program_counts_as_often_as_it_runs():
    def step(x, weights):
        x, _ = lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)
        return x.sum()

    arguments = jnp.ones((16, 32)), jnp.ones((7, 32, 32))
    text = jax.jit(jax.grad(step, 1)).lower(*arguments).compile().as_text()
    flops = sum(cost.runs * cost.flops for cost in instruction_costs(text))
    # Forward, and gradients towards both factors.
    assert flops == 3 * 7 * 2 * 16 * 32 * 32
