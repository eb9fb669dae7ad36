//! The demo page: the files of web/demo, served from memory.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::Router;
use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use rust_embed::Embed;
use tokio::net::TcpListener;

/// The addresses that `localhost` is a name of.
const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

#[derive(Debug, Embed)]
#[folder = "../../web/demo"]
struct Files;

/// Serves the page until the listener fails. `gateway` is where its websocket may connect.
pub(crate) async fn serve(
    listener: TcpListener,
    gateway: Option<SocketAddr>,
) -> std::io::Result<()> {
    let policy = HeaderValue::from_str(&policy(gateway)).map_err(std::io::Error::other)?;
    axum::serve(listener, Router::new().fallback(file).with_state(policy)).await
}

/// Everything from this page alone, and connections to this gateway alone.
fn policy(gateway: Option<SocketAddr>) -> String {
    let connect = match gateway {
        None => "'none'".to_owned(),
        // The page asks for the gateway at the host it came from, and that has more names than an address.
        Some(address) if LOCALHOST.contains(&address.ip()) => {
            format!("ws://127.0.0.1:{port} ws://localhost:{port}", port = address.port())
        }
        Some(address) if address.ip().is_loopback() => format!("ws://{address}"),
        Some(address) => format!("ws://*:{port} wss://*:{port}", port = address.port()),
    };
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src {connect}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

async fn file(State(policy): State<HeaderValue>, method: Method, uri: Uri) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let path = match uri.path().trim_start_matches('/') {
        "" => "index.html",
        path => path,
    };
    let Some(file) = Files::get(path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut response = file.data.into_owned().into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(path)));
    headers.insert(CONTENT_SECURITY_POLICY, policy);
    // The files change with the binary and have no versions in their names.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_may_only_connect_to_its_gateway() {
        let policy = policy(Some("127.0.0.1:8282".parse().unwrap()));
        assert!(
            policy.contains("connect-src ws://127.0.0.1:8282 ws://localhost:8282;"),
            "{policy}"
        );
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    }

    #[test]
    fn a_gateway_on_another_loopback_address_is_named_by_that() {
        let policy = policy(Some("127.0.0.2:8282".parse().unwrap()));
        assert!(policy.contains("connect-src ws://127.0.0.2:8282;"), "{policy}");
    }

    #[test]
    fn every_file_of_the_page_has_a_content_type() {
        for path in Files::iter() {
            assert_ne!(content_type(&path), "application/octet-stream", "{path}");
        }
        assert!(Files::get("index.html").is_some());
    }
}
