from pricer.report import score_table

SCORE = {"n": 300, "mae": 64.089, "mae_ci_low": 55.6, "mae_ci_high": 73.22, "r2": 0.5197}


def test_a_row_each_and_the_floor_where_it_is_known():
    table = score_table({"tuned model": SCORE, "constant": SCORE | {"mae": 99.0}}, 12.078)
    assert table.splitlines()[2:5] == [
        "| tuned model | $64.09 | 55.60 to 73.22 | 0.52 |",
        "| constant | $99.00 | 55.60 to 73.22 | 0.52 |",
        "| floor | $12.08 | | |",
    ]
    assert "on 300 test products" in table
    assert "floor" not in score_table({"tuned model": SCORE}, None)
