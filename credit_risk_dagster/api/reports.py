"""What was reported of the population: the HTML of a drift report, read from the lake."""

from io import BytesIO
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from credit_risk_dagster.api import problems
from credit_risk_dagster.api.guards import admit
from credit_risk_dagster.api.problems import ApiError
from resources.lake import ObjectMissing
from resources.postgres.drift import DriftLedger

# The page draws itself by scripts of its own. It loads nothing, sends nothing, and is of no origin,
# so that it can ask this API nothing in a reader's name.
_ALONE = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:"
)

router = APIRouter(
    tags=["reports"], dependencies=[Depends(admit)], responses=problems.responses(401, 403, 429)
)


@router.get(
    "/reports/drift/{report_id}",
    summary="The HTML of a drift report",
    response_class=Response,
    responses={
        200: {"content": {"text/html": {"schema": {"type": "string"}}}},
        **problems.responses(404, 422, 503),
    },
)
def drift_report(
    request: Request,
    report_id: Annotated[int, Path(ge=1, le=2**63 - 1, examples=[1])],
) -> Response:
    """The report as its run stored it, one self-contained page. Its number is in the run's
    metadata in Dagster."""
    state = request.app.state
    with state.warehouse.session() as connection:
        key = DriftLedger(connection).html_key(report_id)
    if key is None:
        raise ApiError(404, f"no drift report {report_id} has HTML: its run in Dagster says why")
    page = BytesIO()
    try:
        state.lake.get(key, page)
    except ObjectMissing as error:
        raise ApiError(404, f"the HTML of drift report {report_id} is gone from S3") from error
    return Response(
        page.getvalue(),
        media_type="text/html",
        headers={
            "Content-Disposition": f'inline; filename="drift-{report_id}.html"',
            "Content-Security-Policy": _ALONE,
        },
    )
