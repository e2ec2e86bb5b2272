//! Measurements of arc; the peer comparison is `benches/peers.sh`.
