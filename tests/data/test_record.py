import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from titans_seq.data.record import ALPHABET, IUPAC, LOWER, Record, Tally, decode, encode, quoted
from titans_seq.errors import InputError

nucleotides = st.text(ALPHABET, max_size=200)


@given(nucleotides)
def test_decoding_undoes_encoding(text: str) -> None:
    codes = encode(text)
    assert codes.dtype == np.uint8
    assert codes.flags.writeable
    assert decode(codes) == text


@given(nucleotides)
def test_case_and_type_do_not_matter(text: str) -> None:
    assert (encode(text.lower()) == encode(text)).all()
    assert (encode(text.encode()) == encode(text)).all()


@given(st.text("ACGTNacgtnuURy", max_size=200))
def test_case_that_is_kept_stands_beside_the_code(text: str) -> None:
    codes = encode(text, keep_case=True)
    assert codes.dtype == np.uint8
    assert ((codes & (LOWER - 1)) == encode(text)).all()
    assert (codes >= LOWER).tolist() == [symbol.islower() for symbol in text]


@given(nucleotides, nucleotides)
def test_codes_of_two_parts_are_those_of_the_whole(left: str, right: str) -> None:
    assert (np.concatenate([encode(left), encode(right)]) == encode(left + right)).all()


def test_the_numbers_are_those_of_the_documentation() -> None:
    assert encode("ACGTN").tolist() == [0, 1, 2, 3, 4]


def test_u_is_t_and_iupac_codes_are_n_and_both_are_counted() -> None:
    tally = Tally()
    assert decode(encode("acgRuU" + IUPAC, tally=tally)) == "ACGNTT" + "N" * len(IUPAC)
    assert tally.symbols["R"] == 2 and tally.symbols["U"] == 2 and tally.symbols["Y"] == 1
    assert set(tally.symbols) == {"U", *IUPAC}
    assert tally.lower == 4
    encode("aCG", tally=tally)
    assert tally.lower == 5
    told: list[str] = []
    tally.tell("x.fa", told.append)
    assert len(told) == 2 and "R 2" in told[0] and "U was read as T, 2 times" in told[1]


@given(nucleotides, st.characters().filter(lambda c: c.upper() not in set("ACGTNU" + IUPAC)), st.integers(0, 10**6))
def test_any_other_symbol_is_refused_by_position(before: str, symbol: str, start: int) -> None:
    with pytest.raises(InputError) as told:
        encode(before + symbol + "ACGT", where="x.fa: record 'a'", start=start)
    assert f"x.fa: record 'a' has {symbol!r} at position {start + len(before) + 1:,} " in str(told.value)


def test_symbols_that_upper_case_makes_valid_are_still_refused() -> None:
    for symbol in "\N{LATIN SMALL LETTER DOTLESS I}\N{LATIN SMALL LETTER LONG S}\N{KELVIN SIGN}":
        with pytest.raises(InputError, match="at position 2 "):
            encode("A" + symbol)


def test_record_has_the_length_of_its_codes() -> None:
    assert len(Record("a", encode("ACGT"))) == 4


def test_ids_are_shown_on_one_short_line() -> None:
    assert quoted("a\nb\x1b[0m") == r"'a\nb\x1b[0m'"
    assert len(quoted("x" * 10_000)) < 70
