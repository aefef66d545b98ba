import pytest

from mta_jax.benchmark.schedule import Block, Loop, Region, find_hot_path, parse_schedule

DELAY_SLOTS = 4

MATMUL = "%1 = vmatmul.bf16.gmra.mxu0 %v2_v3"


def listing(*bundles):
    """A listing with the given instructions, one text per bundle."""
    lines = ["= control target key start", "LB: loop body", "= control target key end", ""]
    for number, text in enumerate(bundles):
        lines.append(f"{number:#6x} {'LB' if number % 3 else '  '}: > {{ {text} }} /* region */")
    return "\n".join(lines) + "\n"


def branch(target, predicate="(%p1_p2) "):
    """A branch and its delay slots."""
    text = f"%9 = sbr.rel {predicate}target bundleno = {target} ({target:#x}), region = 3"
    return [text, *[""] * DELAY_SLOTS]


def work(num_bundles, num_matmuls=0):
    """Bundles of which the first ones hold matrix products."""
    return [MATMUL if number < num_matmuls else "" for number in range(num_bundles)]


def loop(start, body, trips, register="s5", predicate="p7_p8"):
    """A counted loop. Its counter starts before it, in `counter_at_zero`."""
    test = [
        f"%s30_{register}0 = sadd.s32 1, %s31_{register}  ;;  %v1_v1 = vld [vmem:[%s3_s4]]",
        f"%{predicate} = scmp.ge.s32.totalorder %s30_{register}0, {trips} /* loop exit test */",
    ]
    return [*body, *test, *branch(start, f"(!%{predicate}) ")]


def counter_at_zero(register="s5"):
    return f"%s29_{register} = smov 0 /* copy for cssa */"


def test_blocks_end_after_the_delay_slots_of_a_branch_and_at_its_target():
    schedule = parse_schedule(listing(*work(3), *branch(12), *work(4, 2), *work(5)))
    assert schedule.blocks == (Block(0, 8, 0), Block(8, 12, 2), Block(12, 17, 0))
    assert schedule.regions == (Region(8, 12),)
    assert schedule.loops == ()
    assert schedule.complete


def test_one_bundle_may_take_several_lines():
    text = listing(*work(2, 1)).replace("/* region */", f"/* a:\nb: 1 */ ;; {MATMUL} }}", 1)
    assert parse_schedule(text).blocks == (Block(0, 2, 2),)


def test_a_pass_over_rows_is_read_with_its_loop():
    bundles = [counter_at_zero(), *loop(1, work(10, 4), trips=6)]
    assert parse_schedule(listing(*bundles)).loops == (Loop(1, 18, trips=6),)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("smov 0", "sld [smem:[#allocation1]]"),
        ("sadd.s32 1", "sadd.s32 %s1_s1"),
        (", 6 /* loop exit test */", ", %s2_s2 /* loop exit test */"),
    ],
)
def test_trips_that_depend_on_data_are_unknown(before, after):
    text = listing(counter_at_zero(), *loop(1, work(10, 4), trips=6)).replace(before, after)
    assert parse_schedule(text).loops == (Loop(1, 18, trips=None),)


def attention_kernel(inner_trips=None):
    """Start, then the grid: initialise, interior tile, diagonal tile, finish."""
    bundles = [counter_at_zero("s1"), *work(9)]

    def region(body):
        after = len(bundles) + 1 + DELAY_SLOTS
        bundles.extend([*branch(after + len(body)), *body])

    region(work(20))
    inner_start = len(bundles) + 1 + 1 + DELAY_SLOTS
    interior = work(100, 50)
    if inner_trips is not None:
        bundles.append(counter_at_zero())
        interior = loop(inner_start, interior, inner_trips)
        region([*interior, *work(3)])
    else:
        region(interior)
    region(work(130, 50))
    region(work(40, 2))
    return listing(*loop(10, [*bundles, *work(7)], 34, "s1", "p3_p3"), *work(2))


def test_the_hot_path_is_the_interior_tile_and_what_every_step_does():
    path = find_hot_path(parse_schedule(attention_kernel()))
    assert path.cycles == 100
    # Four branches with their delay slots, 7 bundles, the exit test and the last branch.
    assert path.step_cycles == 4 * 5 + 7 + 2 + 5
    assert path.steps == 34
    assert path.regions == (100, 130, 40)
    assert path.certain


def test_a_loop_inside_the_tile_counts_as_often_as_it_runs():
    path = find_hot_path(parse_schedule(attention_kernel(inner_trips=3)))
    assert path.cycles == 3 * (100 + 2 + 5) + 3
    assert path.certain


def test_a_loop_of_unknown_trips_counts_once_and_is_no_certain_figure():
    text = attention_kernel(inner_trips=3).replace(", 3 /* loop", ", %s9_s9 /* loop")
    path = find_hot_path(parse_schedule(text))
    assert path.cycles == 100 + 2 + 5 + 3
    assert not path.certain


def test_a_step_that_runs_several_tiles_is_shared_out_among_them():
    tile = [*branch(17), *work(10, 5)]  # from 2 on; the branch jumps to 17
    inner = loop(2, [*tile, *work(1)], trips=4)
    bundles = [
        counter_at_zero("s1"),
        *loop(1, [counter_at_zero(), *inner, *work(3)], 8, "s1", "p3_p3"),
    ]
    path = find_hot_path(parse_schedule(listing(*bundles)))
    assert path.cycles == 10
    inner_steps, outer = 4 * (5 + 1 + 2 + 5), 1 + 3 + 2 + 5
    assert path.step_cycles == (inner_steps + outer) / 4
    assert path.steps == 8
    assert path.certain


def test_without_predicates_the_tile_is_a_step_of_the_grid():
    bundles = [counter_at_zero(), *work(5), *loop(6, work(30, 4), 16), *work(9)]
    path = find_hot_path(parse_schedule(listing(*bundles)))
    assert (path.cycles, path.step_cycles, path.steps) == (30 + 2 + 5, 0, 16)


def test_without_matrix_products_the_tile_is_the_largest_region():
    bundles = [*work(3), *branch(28), *work(20), *branch(38), *work(5)]
    path = find_hot_path(parse_schedule(listing(*bundles)))
    assert (path.cycles, path.step_cycles, path.steps) == (20, 13, 1)


def test_branches_that_do_not_nest_leave_the_block_with_most_products():
    bundles = [*branch(14), *work(1), *branch(20), *work(9, 7)]
    path = find_hot_path(parse_schedule(listing(*bundles)))
    assert path.cycles == 6
    assert not path.certain


def test_a_listing_that_breaks_off_is_no_certain_figure():
    schedule = parse_schedule(listing(*branch(50), *work(10, 5)), num_bundles=60)
    assert schedule.blocks == (Block(0, 5, 0), Block(5, 50, 5), Block(50, 60, 0))
    path = find_hot_path(schedule)
    assert path.cycles == 45
    assert not path.certain


def test_text_without_bundles_is_refused():
    with pytest.raises(ValueError, match="no bundles"):
        parse_schedule("= control target key start\n")
    with pytest.raises(ValueError, match="bundle 0x2 is missing"):
        parse_schedule(listing(*work(5)).replace("   0x2", "   0x9"))
