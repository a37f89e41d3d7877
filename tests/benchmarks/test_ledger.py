import pytest


def test_rows_are_appended_under_one_header(tmp_path):
    from ledger import Ledger
    from timing import Spread

    path = tmp_path / "new" / "step.csv"
    for value in (1.5, 2.5):
        ledger = Ledger(shape="tiny", dtype="float32")
        ledger.add("mezo", "step", Spread(value, 1.0, 3.0, 7), "s", batch=16, tokens="48")
        ledger.append_to(path)

    header, *rows = path.read_text().splitlines()
    assert header.startswith("date,commit,dirty,machine,cores,threads,python,torch,transformers,foretune,shape,dtype")
    assert [row.split(",")[-9:] for row in rows] == [
        ["16", "48", "mezo", "step", value, "s", "1", "3", "7"] for value in ("1.5", "2.5")
    ]


def test_a_file_of_other_columns_is_left_alone(tmp_path):
    from ledger import Ledger

    path = tmp_path / "step.csv"
    path.write_text("date,speed\n")
    with pytest.raises(ValueError, match="has columns date, speed; expected date, commit"):
        Ledger(shape="tiny", dtype="float32").append_to(path)
    assert path.read_text() == "date,speed\n"
