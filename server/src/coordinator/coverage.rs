//! Requests about what was last read whole, and of drills.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};

use super::Core;
use super::read::check_count;
use super::router::{Body, bad_request};
use crate::Result;
use crate::wire::{
    COVERAGE_STRIPES_MAX, Coverage, CoverageRequest, Drill, OldestQuery, PAGE_ROWS_MAX, Page,
    StripeCoverage, StripeMap,
};

/// `POST /v1/coverage`
pub(super) async fn note(
    State(core): State<Arc<Core>>,
    Body(Coverage { stripes }): Body<Coverage>,
) -> Result<Json<()>> {
    check_count("stripes", stripes.len(), COVERAGE_STRIPES_MAX)?;
    // A stripe has no more shards than their index has values.
    for covered in &stripes {
        check_count("shards of a stripe", covered.shards.len(), usize::from(u8::MAX))?;
    }
    Ok(Json(core.catalog.note_coverage(stripes).await?))
}

/// `GET /v1/coverage/oldest`
pub(super) async fn oldest(
    State(core): State<Arc<Core>>,
    query: Result<Query<OldestQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Page<StripeMap>>> {
    let OldestQuery { proof, after, limit } =
        query.map_err(|error| bad_request(format!("the query: {error}")))?.0;
    let place = |after: &str| {
        let (ms, key) = after.split_once('-')?;
        Some((ms.parse().ok()?, key.parse().ok()?))
    };
    let after = match &after {
        None => None,
        Some(text) => {
            Some(place(text).ok_or_else(|| bad_request(format!("no page begins after {text:?}")))?)
        }
    };
    let limit = limit.unwrap_or(PAGE_ROWS_MAX).clamp(1, PAGE_ROWS_MAX) as usize;
    Ok(Json(core.catalog.oldest(proof, core.fleet.up(), after, limit).await?))
}

/// `POST /v1/coverage/stripes`
pub(super) async fn of_stripes(
    State(core): State<Arc<Core>>,
    Body(CoverageRequest { stripes }): Body<CoverageRequest>,
) -> Result<Json<Vec<StripeCoverage>>> {
    check_count("stripes", stripes.len(), COVERAGE_STRIPES_MAX)?;
    Ok(Json(core.catalog.coverage(stripes).await?))
}

/// `POST /v1/drills`
pub(super) async fn drill(
    State(core): State<Arc<Core>>,
    Body(drill): Body<Drill>,
) -> Result<Json<()>> {
    Ok(Json(core.catalog.note_drill(drill).await?))
}
