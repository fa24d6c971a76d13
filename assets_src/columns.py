"""What the columns of the tables mean, for the asset catalog."""

from dagster import TableColumn, TableColumnConstraints, TableSchema


def _schema(table: str) -> TableSchema:
    columns = []
    for line in table.strip().splitlines():
        name, kind, description = line.split(maxsplit=2)
        columns.append(
            TableColumn(
                name,
                kind.rstrip("?"),
                description,
                TableColumnConstraints(nullable=kind.endswith("?")),
            )
        )
    return TableSchema(columns)


_COORDINATES = """
source_id  integer      topic and cluster (table sources)
partition  integer      partition of the record
offset     bigint       offset of the record
batch_id   bigint       micro-batch that wrote the row (table batches): its run and timings
recorded_at timestamptz timestamp of the record in the broker
"""

SCORED_APPLICATIONS = _schema(
    _COORDINATES.strip()
    + """
scored_at            timestamptz  when the row was written
policy_id            integer      policy that decided (table policies): name, content hash, document
event_time           timestamptz? the event's own time
loan_id              text?        LendingClub's loan id, or the record's key
loan_amnt            float8       amount applied for, USD
annual_inc           float8       annual income that decided, USD
dti                  float8       debt to income that decided, percent
int_rate             float8       interest rate, percent
revol_util           float8?      revolving utilization, percent
delinq_2yrs          float8?      delinquencies of 30 days or more in the past two years
inq_last_6mths       float8?      credit inquiries in the past six months
credit_history_years float8       years from the earliest credit line to the application
emp_length_yrs       float8?      years of employment; 10 means ten or more
term_months          float8?      term, months
issue_d              date?        month of issue
purpose              text?        purpose of the loan
grade                text?        LendingClub's grade, A to G
addr_state           text?        state, two letters
home_ownership       text?        RENT, OWN, MORTGAGE, ...
application_type     text?        individual, joint or direct_pay
figures              text?        of a joint application: primary, combined, mixed or fallback
annual_inc_primary   float8?      of a joint application, the first borrower's annual income, USD
dti_primary          float8?      of a joint application, the first borrower's debt to income
annual_inc_joint     float8?      both borrowers' annual income, USD
dti_joint            float8?      both borrowers' debt to income, percent
loan_status          text?        outcome, where the event carries one
dti_band             text         Low, Moderate, High or Very High
util_band            text?        band of the utilization
rate_band            text         band of the interest rate
early_warning        boolean      stress and behaviour signals together
risk_tier            text         Low, Elevated or Watchlist
recommendation       text?        approve, refer or decline, beside the tier
reasons              text[]       of the rules that fired, in the policy's order
pd                   float8?      probability of the model's outcome, which its row of models names
model_id             integer?     model that gave it (table models)
arm                  text?        of a split: its salt, and champion or challenger
pd_reasons           text[]?      what raises pd most, for staff; no reasons of the decision
"""
)

REJECTED_EVENTS = _schema(
    _COORDINATES.strip()
    + """
rejected_at timestamptz when the row was written
reason      text        stable reason code, e.g. missing_required:dti
key         bytea?      key of the record
value       bytea?      exact bytes of the event; null for a tombstone
first_source_id int?    source of the event that a duplicate_submission repeats
first_partition int?    its partition
first_offset bigint?    its offset
"""
)

RAW_EVENTS = _schema("""
dt         date       day of the object, from its path
partition  int32      partition of the record
offset     int64      offset of the record
timestamp  timestamp  the record's, in the broker
key        binary?    exact bytes of the record's key
value      binary?    exact bytes of the event; null: a tombstone
""")
