//! Tests of the dispatcher, with gateways of the real core around it.
