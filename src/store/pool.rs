//! The connections of the pipeline's client, as the driver tells of them (Connection Monitoring and Pooling).

use std::sync::Arc;

use mongodb::event::EventHandler;
use mongodb::event::cmap::CmapEvent;

use crate::board::Pool;

/// What the driver is to tell, into `pool`.
pub(super) fn handler(pool: &Arc<Pool>) -> EventHandler<CmapEvent> {
    let pool = Arc::clone(pool);
    EventHandler::callback(move |event| match event {
        CmapEvent::ConnectionCreated(_) => pool.opened(1),
        CmapEvent::ConnectionClosed(_) => pool.opened(-1),
        CmapEvent::ConnectionCheckedOut(event) => pool.checked_out(event.duration),
        CmapEvent::ConnectionCheckedIn(_) => pool.checked_in(),
        CmapEvent::ConnectionCheckoutFailed(_) => pool.failed(),
        _ => {}
    })
}
