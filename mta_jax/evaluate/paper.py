"""The paper's own figures, by its tables (https://arxiv.org/abs/2504.00927, version 2).

Its needles (figures 3 and 8) and its BABILong (figures 5 and 7) are plots without numbers.
"""

TABLE_1_COLUMNS = ("N=5 all", "N=5 first", "N=5 last", "N=8 all", "N=8 first", "N=8 last")
"""Letters of a block, and which of them are asked for."""

TABLE_1 = {
    "transformer": (
        "51.6 ± 43.1",
        "78.2 ± 1.5",
        "1.3 ± 0.4",
        "31.2 ± 50.3",
        "28.9 ± 24.9",
        "58.4 ± 46.8",
    ),
    "mta": ("0.1 ± 0.1", "0.0 ± 0.0", "0.0 ± 0.0", "0.1 ± 0.0", "0.0 ± 0.0", "0.0 ± 0.0"),
}
"""Percent of wrong answers to the block-search task, mean and sample standard deviation of three
seeds, with 4 layers of width 256 and about 50 blocks, after 100,000 steps."""

TABLE_2_COLUMNS = {
    "arxiv": "arxiv",
    "book": "book",
    "c4": "c4",
    "commoncrawl": "cc",
    "github": "github",
    "stackexchange": "se",
    "wikipedia": "wiki",
    "mean": "avg",
}
"""The table's headings by the names of the domains in the configs."""

TABLE_2 = {
    "transformer": ("4.65", "13.47", "20.20", "14.41", "4.28", "10.13", "11.64", "11.25"),
    "diff": ("4.62", "13.33", "19.99", "14.28", "4.25", "10.04", "11.54", "11.15"),
    "talking_heads": ("4.59", "13.26", "19.82", "14.15", "4.20", "9.93", "11.33", "11.04"),
    "mta": ("4.54", "13.09", "19.63", "14.00", "4.12", "9.76", "11.18", "10.91"),
}
"""Perplexity of SlimPajama's validation text, 880M models, 105 billion tokens, 2 seeds."""

TABLE_2_LONG = {
    "transformer": ("4.32", "13.18", "20.14", "14.08", "3.96", "9.84", "11.63", "11.02"),
    "diff": ("4.28", "13.01", "19.87", "13.93", "3.90", "9.72", "11.49", "10.89"),
    "talking_heads": ("4.29", "13.25", "19.95", "13.90", "3.86", "9.66", "11.29", "10.88"),
    "mta": ("4.21", "12.77", "19.51", "13.66", "3.79", "9.46", "11.14", "10.65"),
}
"""The same after 10.5 billion tokens more, in rows of 4,096."""

TABLE_3_COLUMNS = {
    "boolq": "BoolQ",
    "piqa": "PIQA",
    "social_iqa": "SIQA",
    "hellaswag": "HellaS",
    "winogrande": "WinoG",
    "arc_easy": "ARCe",
    "arc_challenge": "ARCc",
    "openbookqa": "OBQA",
    "mmlu": "MMLU",
    "mean": "avg",
}
"""The table's headings by the names of the tasks in lm-evaluation-harness."""

TABLE_3 = {
    "transformer": (56.2, 70.2, 39.9, 38.5, 56.4, 57.9, 25.9, 23.8, 24.5, 43.7),
    "diff": (59.6, 70.5, 39.7, 38.9, 56.4, 57.7, 25.6, 21.4, 24.9, 43.9),
    "talking_heads": (61.9, 71.4, 40.6, 39.4, 54.5, 58.2, 25.2, 23.6, 24.7, 44.4),
    "mta": (62.1, 71.7, 40.4, 39.7, 57.2, 58.9, 24.7, 23.6, 25.8, 44.9),
}
"""Accuracy in percent of the 880M models, means of 2 seeds."""

TABLE_4_COLUMNS = ("standard", "openai")
"""Variants of LAMBADA."""

TABLE_4 = {
    "transformer": (17.6, 9.5),
    "diff": (14.9, 9.3),
    "talking_heads": (15.1, 8.9),
    "mta": (13.2, 8.4),
}
"""Perplexity of the last word, 880M models."""
