"""Each engine's metrics pages, recorded and of older versions, as one load."""

from __future__ import annotations

import pytest

from adapters import registry
from gateway.types import Load
from gateway.wire.exposition import Layout
from tests.recordings import folder

ADAPTERS = registry.load()


def load(engine: str, page: str | bytes) -> Load:
    return ADAPTERS[engine].parse_load(page.encode() if isinstance(page, str) else page, 1.0)


def recorded(name: str) -> bytes:
    return (folder(name) / "metrics.prom").read_bytes()


VLLM = Load(
    at=1.0, waiting=32, running=32, kv_usage=0.0019532442165659525, block_size=128, blocks=16384,
    ttft_sum=20.44082474708557, ttft_count=124, tpot_sum=48.84274184400215, tpot_count=10518,
    prompt_tokens=4317, generated_tokens=10642, queried_tokens=4313, hit_tokens=1280, finished=90,
    started=1795233172.76,
)  # fmt: skip
VLLM_LORA = Load(
    at=1.0, waiting=1, running=4, kv_usage=0.001709088689495264, block_size=128, blocks=16384,
    loras=frozenset({"lora-a", "lora-c"}), waiting_loras=frozenset({"lora-a", "lora-c"}), max_loras=2,
    ttft_sum=0.3276214599609375, ttft_count=12, tpot_sum=15.035651241001233, tpot_count=3225,
    prompt_tokens=787, generated_tokens=3237, queried_tokens=787, hit_tokens=512, finished=8,
    started=1795233279.26,
)  # fmt: skip
SGLANG = Load(
    at=1.0, waiting=48, running=16, kv_usage=0.05, block_size=1, blocks=20000,
    ttft_sum=10.209712423205929, ttft_count=112, tpot_sum=43.02466868105057, tpot_count=10618,
    prompt_tokens=4507, generated_tokens=9629, queried_tokens=4507, hit_tokens=3202, finished=96,
)  # fmt: skip
LLAMACPP = Load(
    at=1.0, waiting=12, running=4, tpot_sum=3.98109, tpot_count=9270,
    prompt_tokens=3701, generated_tokens=9270, queried_tokens=3701, hit_tokens=2637,
)  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "name", "expected"),
    [
        ("vllm", "vllm", VLLM),
        ("vllm", "vllm-lora-tools", VLLM_LORA),
        ("sglang", "sglang", SGLANG),
        ("llamacpp", "llamacpp", LLAMACPP),
    ],
)
def test_pages_of_running_engines(engine: str, name: str, expected: Load) -> None:
    page = recorded(name)
    adapter, layout = ADAPTERS[engine], Layout()
    assert adapter.parse_load(page, 1.0) == expected
    assert adapter.parse_load(page, 1.0, layout) == expected
    assert adapter.parse_load(page, 1.0, layout) == expected
    underscored = page.replace(b"\n%b:" % engine.encode(), b"\n%b_" % engine.encode())
    assert underscored != page
    assert adapter.parse_load(underscored, 1.0) == expected


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tgi", "llamacpp", "trtllm"])
@pytest.mark.parametrize("page", [b'{"error":"metrics are off"}', b"python_info 1.0\nprocess_start_time_seconds 5\n"])
def test_another_page_is_none_of_an_engine(engine: str, page: bytes) -> None:
    with pytest.raises(ValueError, match="sample"):
        load(engine, page)


@pytest.mark.parametrize("engine", ["openai", "ollama", "deepseek"])
def test_providers_have_none(engine: str) -> None:
    assert ADAPTERS[engine].metrics_path() == b""
    with pytest.raises(ValueError, match="no metrics page"):
        load(engine, recorded("vllm"))


def test_paths() -> None:
    assert ADAPTERS["vllm"].metrics_path() == b"/metrics"
    assert ADAPTERS["trtllm"].metrics_path() == b"/prometheus/metrics"


@pytest.mark.parametrize(("engine", "page"), [("vllm", "# TYPE vllm:num_requests_running gauge\n"), ("tgi", "")])
def test_an_engine_that_has_done_nothing_yet(engine: str, page: str) -> None:
    assert load(engine, page) == Load(at=1.0)


# -- vLLM ---------------------------------------------------------------------------------------------------------


def test_vllm_before_the_renames() -> None:
    told = load(
        "vllm",
        'vllm:gpu_cache_usage_perc{model_name="m"} 0.5\n'
        'vllm:gpu_prefix_cache_queries_total{model_name="m"} 10\n'
        'vllm:gpu_prefix_cache_hits_total{model_name="m"} 4\n'
        'vllm:time_per_output_token_seconds_sum{model_name="m"} 3\n'
        'vllm:time_per_output_token_seconds_count{model_name="m"} 100\n'
        'vllm:request_time_per_output_token_seconds_sum{model_name="m"} 9\n',
    )
    assert (told.kv_usage, told.queried_tokens, told.hit_tokens) == (0.5, 10, 4)
    assert (told.tpot_sum, told.tpot_count) == (3, 100)


def test_all_that_wait_are_counted_wherever_they_do() -> None:
    assert load("vllm", "vllm:num_requests_waiting 2\nvllm:num_requests_swapped 3\n").waiting == 5
    assert load("sglang", "sglang:num_queue_reqs 2\nsglang:num_grammar_queue_reqs 3\n").waiting == 5
    labels = '{tp_rank="%d"}'
    page = "".join(f"sglang:num_grammar_queue_reqs{labels % rank} 3\n" for rank in (0, 1))
    assert load("sglang", f"sglang:num_queue_reqs 2\n{page}").waiting == 5


def test_vllm_prefers_the_newer_of_two_names() -> None:
    told = load("vllm", "vllm:gpu_cache_usage_perc 0.1\nvllm:kv_cache_usage_perc 0.2\n")
    assert told.kv_usage == 0.2


RANKS = """\
vllm:num_requests_running{engine="0",model_name="m"} 7.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="1",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.8
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.2
"""
CONFIGS = """\
vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="300"} 1.0
vllm:cache_config_info{block_size="16",engine="1",num_gpu_blocks="100"} 1.0
"""


def test_data_parallel_ranks_are_one_engine() -> None:
    told = load("vllm", RANKS)
    assert (told.running, told.waiting, told.kv_usage) == (8, 5, 0.5)
    told = load("vllm", RANKS + CONFIGS)
    assert (told.block_size, told.blocks) == (16, 400)
    assert told.kv_usage == pytest.approx((0.8 * 300 + 0.2 * 100) / 400)
    half_told = load("vllm", RANKS + CONFIGS.replace('"100"', '"None"'))
    assert half_told.kv_usage == 0.5


@pytest.mark.parametrize(
    ("labels", "size", "blocks"),
    [
        ('block_size="16",num_gpu_blocks="27487"', 16, 27487),
        ('block_size="16",num_gpu_blocks="None"', 16, 0),
        ('block_size="None",num_gpu_blocks="None"', 0, 0),
        ('block_size="16",effective_attention_block_size="None",num_gpu_blocks="10"', 16, 10),
        ('block_size="16",kv_cache_size_tokens="1600",num_gpu_blocks="None"', 16, 100),
        ('block_size="16",effective_attention_block_size="48",kv_cache_size_tokens="480",num_gpu_blocks="9"', 48, 10),
        ("", 0, 0),
    ],
)
def test_vllm_block_sizes(labels: str, size: int, blocks: int) -> None:
    told = load("vllm", f"vllm:num_requests_running 1\nvllm:cache_config_info{{{labels}}} 1.0\n")
    assert (told.block_size, told.blocks) == (size, blocks)


def test_vllm_newest_set_of_loras_holds_whatever_its_place() -> None:
    sets = (("sql,chat", "", "1.7952338712733655e+09"), ("", "sql", "1.7952338010000000e+09"), ("", "old", "NaN"))
    lines = [
        f'vllm:lora_requests_info{{max_lora="4",running_lora_adapters="{runs}",waiting_lora_adapters="{waits}"}} {at}'
        for runs, waits, at in sets
    ]
    for page in ("\n".join(lines), "\n".join(reversed(lines))):
        told = load("vllm", page + "\n")
        assert (told.loras, told.waiting_loras, told.max_loras) == ({"sql", "chat"}, frozenset(), 4)
    assert load("vllm", RANKS).loras is None


@pytest.mark.parametrize(
    ("awake", "asleep"), [(("1.0",), False), (("0.0",), True), (("0.0", "1.0"), False), ((), False)]
)
def test_vllm_sleeps_when_no_rank_is_awake(awake: tuple[str, ...], asleep: bool) -> None:
    states = [f'vllm:engine_sleep_state{{engine="{rank}",sleep_state="awake"}} {n}' for rank, n in enumerate(awake)]
    states += [f'vllm:engine_sleep_state{{engine="{rank}",sleep_state="discard_all"}} 1' for rank in range(len(awake))]
    assert load("vllm", "\n".join([RANKS, *states, ""])).asleep is asleep


def test_a_broken_number_keeps_the_others() -> None:
    told = load("vllm", RANKS.replace(" 7.0", " seven").replace(" 0.8", " NaN") + "vllm:prompt_tokens_total +Inf\n")
    assert (told.running, told.waiting, told.kv_usage, told.prompt_tokens) == (1, 5, 0.2, 0)


def test_a_simulator_that_labels_with_the_model_only() -> None:
    name = 'model_name="/models/a\\"b\\\\c"'
    told = load(
        "vllm",
        f"vllm:num_requests_running{{{name}}} 2\nvllm:num_requests_waiting{{{name}}} 1\n"
        f"vllm:kv_cache_usage_perc{{{name}}} 0.25\n"
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="1024"} 1\n',
    )
    assert told == Load(at=1.0, waiting=1, running=2, kv_usage=0.25, block_size=16, blocks=1024)


# -- SGLang -------------------------------------------------------------------------------------------------------


def sglang(name: str, value: float, **labels: object) -> str:
    given = {"engine_type": "unified", "model_name": "m", **labels}
    fields = ",".join(f'{key}="{given[key]}"' for key in sorted(given))
    return f"sglang:{name}{{{fields}}} {value}\n"


def test_sglang_counts_a_rank_once_however_many_of_its_schedulers_tell_it() -> None:
    page = "".join(
        sglang("num_running_reqs", running, dp_rank=dp, tp_rank=tp)
        + sglang("token_usage", usage, dp_rank=dp, tp_rank=tp)
        + sglang("num_pages", pages, dp_rank=dp, tp_rank=tp)
        for dp, running, usage, pages in ((0, 5.0, 0.5, 30.0), (1, 3.0, 0.1, 10.0))
        for tp in (0, 1)
    )
    told = load("sglang", page + sglang("page_size", 64))
    assert (told.running, told.block_size, told.blocks) == (8, 64, 40)
    assert told.kv_usage == pytest.approx((0.5 * 30 + 0.1 * 10) / 40)


def test_sglang_with_priorities_counts_the_whole_not_the_parts() -> None:
    parts = ((9.0, ""), (4.0, 0), (5.0, 1))
    assert load("sglang", "".join(sglang("num_queue_reqs", n, priority=p) for n, p in parts)).waiting == 9


@pytest.mark.parametrize(
    ("page", "size", "blocks"),
    [
        (sglang("page_size", 16) + sglang("num_pages", 100) + sglang("max_total_num_tokens", 9999), 16, 100),
        (sglang("cache_config_info", 1, page_size=32, num_pages=50), 32, 50),
        (sglang("page_size", 16) + sglang("max_total_num_tokens", 1600), 16, 100),
        (sglang("max_total_num_tokens", 1600), 1, 1600),
        (sglang("num_queue_reqs", 1), 0, 0),
    ],
)
def test_sglang_pages(page: str, size: int, blocks: int) -> None:
    told = load("sglang", page)
    assert (told.block_size, told.blocks) == (size, blocks)


# -- others -------------------------------------------------------------------------------------------------------


def test_tgi() -> None:
    told = load(
        "tgi",
        "# TYPE tgi_queue_size gauge\ntgi_queue_size 3\n# TYPE tgi_batch_current_size gauge\n"
        "tgi_batch_current_size 16\n# TYPE tgi_batch_current_max_tokens gauge\ntgi_batch_current_max_tokens 31744\n"
        "tgi_batch_max_total_tokens 63488\ntgi_request_count 812\ntgi_request_input_length_sum 5000\n"
        "tgi_request_generated_tokens_sum 900\ntgi_request_mean_time_per_token_duration_sum 1.5\n"
        "tgi_request_mean_time_per_token_duration_count 30\n",
    )
    assert told == Load(
        at=1.0, waiting=3, running=16, kv_usage=0.5, prompt_tokens=5000, generated_tokens=900, tpot_sum=1.5,
        tpot_count=30,
    )  # fmt: skip


def test_an_idle_tgi_says_little() -> None:
    assert load("tgi", "tgi_batch_max_total_tokens 1000\n") == Load(at=1.0, kv_usage=0.0)
    assert load("tgi", "tgi_batch_current_max_tokens 10\n").kv_usage is None


def test_tensorrt() -> None:
    names = {
        "num_requests_running": 4, "num_requests_waiting": 2, "kv_cache_utilization": 0.25, "kv_cache_max_blocks": 800,
        "kv_cache_tokens_per_block": 32, "prompt_tokens_total": 90, "generation_tokens_total": 70,
        "prompt_cached_tokens_total": 60,
        "time_to_first_token_seconds_sum": 2.5, "time_to_first_token_seconds_count": 5,
        "time_per_output_token_seconds_sum": 0.5, "time_per_output_token_seconds_count": 50,
    }  # fmt: skip
    page = "".join(f'trtllm_{name}{{engine_type="undefined",model_name="m"}} {n}\n' for name, n in names.items())
    assert load("trtllm", page) == Load(
        at=1.0, waiting=2, running=4, kv_usage=0.25, block_size=32, blocks=800, ttft_sum=2.5, ttft_count=5,
        tpot_sum=0.5, tpot_count=50, prompt_tokens=90, generated_tokens=70, queried_tokens=90, hit_tokens=60,
    )  # fmt: skip


def test_llamacpp_may_say_nan() -> None:
    told = load("llamacpp", "llamacpp:requests_processing 1\nllamacpp:tokens_predicted_seconds_total nan\n")
    assert (told.running, told.tpot_sum) == (1, 0)
