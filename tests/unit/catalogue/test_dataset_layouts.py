"""The readers: both layouts of MovieLens-100K on a few rows, and the shops' files with quoted and broken rows."""

from __future__ import annotations

import gzip
import random

import numpy as np
import pytest

from catalogue.datasets import UnreadableData
from catalogue.datasets.movielens import read_1m_partial, read_100k_grouplens, read_100k_recbole, read_latest_small
from catalogue.datasets.shops import read_amazon_sports, read_online_retail
from catalogue.replay import timeline
from contracts.item import Item

RATINGS = [(2, 10, 4, 900), (1, 9, 5, 900), (1, 267, 3, 900), (10, 9, 1, 800), (1, 10, 2, 900)]


def u_item(item_id: int, title: str, flags: str) -> str:
    return f"{item_id}|{title}|01-Jan-1995||http://example.org/|" + "|".join(flags)


def grouplens(ratings):
    items = [
        u_item(9, "Délicat (1991)", "010"),
        u_item(267, "unknown", "100"),
        u_item(10, "Two Friends (1986) ", "011"),
    ]
    return {
        "u.data": "".join("\t".join(map(str, row)) + "\n" for row in ratings).encode(),
        "u.item": "\n".join(items).encode("latin-1") + b"\n",
        "u.genre": b"unknown|0\nComedy|1\nSci-Fi|2\n\n",
    }


def recbole(ratings):
    items = ["9\tDélicat\t1991\tComedy", "267\tunkonwn\tunkonwn\tunknown", "10\tTwo Friends\t1986\tComedy Sci-Fi"]
    return {
        "ml-100k.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        + grouplens(ratings)["u.data"],
        "ml-100k.item": "\n".join(["item_id:token\tmovie_title:token_seq\t…", *items]).encode(),
    }


@pytest.mark.parametrize(
    "read", [lambda rows: read_100k_grouplens(grouplens(rows)), lambda rows: read_100k_recbole(recbole(rows))]
)
def test_both_layouts_of_100k_give_the_same_items_and_columns(read):
    dataset = read(RATINGS)
    assert dataset.items == [
        Item(item_id="9", title="Délicat (1991)", categories=("Comedy",)),
        Item(item_id="10", title="Two Friends (1986)", categories=("Comedy", "Sci-Fi")),
        Item(item_id="267", title="unknown", categories=("unknown",)),
    ]
    assert dataset.users == ["1", "2", "10"]
    assert dataset.timestamp.tolist() == [800, 900, 900, 900, 900]
    assert dataset.user.tolist() == [2, 0, 0, 0, 1]
    assert dataset.item.tolist() == [0, 0, 1, 2, 1]
    assert dataset.value.tolist() == [1, 5, 2, 3, 4]


def test_shuffling_the_file_leaves_the_replay_as_it_is():
    replays = set()
    for seed in range(5):
        rows = random.Random(seed).sample(RATINGS, len(RATINGS))
        replays.add(tuple(timeline(read_100k_grouplens(grouplens(rows)), 1)))
    assert len(replays) == 1


def test_latest_small_reads_quoted_titles_half_stars_and_no_genre():
    dataset = read_latest_small(
        {
            "ratings.csv": b"userId,movieId,rating,timestamp\r\n1,11,4.5,964982703\r\n1,2,0.5,964982700\r\n",
            "movies.csv": 'movieId,title,genres\r\n11,"President, The (1995)",Comedy|Drama\r\n'
            "2,Café (1999),(no genres listed)\r\n".encode(),
        }
    )
    assert dataset.items == [
        Item(item_id="2", title="Café (1999)"),
        Item(item_id="11", title="President, The (1995)", categories=("Comedy", "Drama")),
    ]
    assert dataset.value.tolist() == [0.5, 4.5]
    assert [event.value for event in timeline(dataset)] == [0.5, 4.5]


def test_1m_partial_reads_its_double_colons():
    events = gzip.compress(b"6040::858::4::956703932\n1::1::5::956703931\n")
    movies = "1::Toy Story (1995)::Animation|Comedy\n858::Pâté (1972)::Drama\n".encode("latin-1")
    dataset = read_1m_partial({"events_known.dat.gz": events, "movies.dat": movies})
    assert [(event.user_id, event.item_id, event.value) for event in timeline(dataset)] == [
        ("1", "1", 5.0),
        ("6040", "858", 4.0),
    ]
    assert dataset.items[1].title == "Pâté (1972)"


def test_online_retail_takes_the_description_for_the_item_and_keeps_repeats():
    lines = [
        "timestamp\tCustomerID\tDescription\tQuantity\tUnitPrice\tCountry",
        '60\t13085\t"RECORD FRAME 7"" SINGLE SIZE"\t12\t6.95\tUnited Kingdom',
        "60\t13085\tPINK LIGHTS\t2\t1.0\tUnited Kingdom",
        "60\t13085\tPINK LIGHTS\t2\t1.0\tUnited Kingdom",
    ]
    dataset = read_online_retail({"events.tsv.gz": gzip.compress("\n".join(lines).encode())})
    assert dataset.item_ids == ["PINK LIGHTS", 'RECORD FRAME 7" SINGLE SIZE']
    assert dataset.repeats
    assert [(event.event_type, event.value) for event in timeline(dataset)].count(("purchase", 2.0)) == 2


def test_a_row_cut_short_is_named():
    lines = b"timestamp\tCustomerID\tDescription\n60\t1\tPINK LIGHTS\n61\t1\n"
    with pytest.raises(UnreadableData, match=r"events\.tsv\.gz, line 3: 2 fields where the header has 3"):
        read_online_retail({"events.tsv.gz": gzip.compress(lines)})


def sports(item_rows):
    events = "timestamp\tuser_idx\tseq_pos\treviewer_id\tasin\titem_idx\n86400\t1\t1\tR\tB2\t2\n86400\t1\t0\tR\tB9\t1\n"
    items = "item_idx\tasin\ttitle\ttext_id\n" + "".join(item_rows)
    return {"events.tsv.gz": gzip.compress(events.encode()), "items.tsv.gz": gzip.compress(items.encode())}


def test_amazon_sports_uses_the_text_id_as_title_and_keeps_the_published_order():
    dataset = read_amazon_sports(sports(["1\tB9\t\tbike pump\n", "2\tB2\tLamp\thead lamp\n"]))
    assert [(item.item_id, item.title) for item in dataset.items] == [("B2", "Lamp"), ("B9", "bike pump")]
    published = timeline(dataset, published_order=True)
    assert [event.item_id for event in published] == ["B9", "B2"]
    assert published[0].user_id == "1"
    assert published[0].value is None
    assert np.isnan(dataset.value).all()


def test_events_and_items_that_contradict_each_other_are_refused():
    with pytest.raises(UnreadableData, match="1 item ids of the events file are not in the items file: 'B2'"):
        read_amazon_sports(sports(["1\tB9\t\tbike pump\n"]))
    with pytest.raises(UnreadableData, match="1 item ids occur twice"):
        read_amazon_sports(sports(["1\tB9\t\ta\n", "2\tB2\t\tb\n", "3\tB9\t\tc\n"]))
    with pytest.raises(UnreadableData, match="below 0"):
        read_100k_grouplens(grouplens([(1, 9, 5, -1)]))
    with pytest.raises(UnreadableData, match="no rows"):
        read_online_retail({"events.tsv.gz": gzip.compress(b"timestamp\tCustomerID\tDescription\tQuantity\n")})
