"""What a model is for, and two more rows of the benchmark: the price alone, the model without."""

from alembic import op

revision = "0017"
down_revision = "0016"

STATEMENTS = """
ALTER TABLE models ADD COLUMN purpose text NOT NULL DEFAULT 'benchmark';
COMMENT ON COLUMN models.purpose IS
    'benchmark: it may know the lender''s own decision (rate, grade); decision: it may not';
COMMENT ON COLUMN models.artifact IS
    'The fitted pipeline in skops format; of a model that can score the stream, its coefficients';

ALTER TABLE model_benchmarks ADD COLUMN against_price jsonb;
ALTER TABLE model_benchmarks DROP CONSTRAINT model_benchmarks_subject_check;
ALTER TABLE model_benchmarks ADD CONSTRAINT model_benchmarks_subject_check CHECK (subject IN (
    'rules', 'logistic', 'gradient_boosting', 'scorecard', 'price', 'without_price'));
COMMENT ON TABLE model_benchmarks IS
    'The rules, each model, the interest rate alone (price) and the logistic regression without '
    'the lender''s own decision (without_price), out of fold, on the same loans: a row for each in '
    'each benchmark';
COMMENT ON COLUMN model_benchmarks.calibration IS
    'intercept, slope, in_the_large, mean_pd, bad_rate, ratio of the two with its 95 % interval, '
    'brier_skill, bins';
COMMENT ON COLUMN model_benchmarks.against_price IS
    'AUC minus that of the interest rate alone, with its 95 % interval; of the first model only';
"""


def upgrade() -> None:
    op.get_bind().connection.cursor().execute(STATEMENTS)
