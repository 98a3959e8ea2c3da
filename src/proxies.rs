//! Reads the proxy settings from the environment, as curl does. An invalid proxy setting is an error, because traffic
//! must never bypass a configured proxy.

use std::{collections::HashSet, env, ffi::OsString};

use reqwest::{ClientBuilder, NoProxy, Proxy};
use url::Url;

use crate::error::{Error, Result};

/// The supported proxy schemes. With socks4 and socks5, reqwest resolves host names. With socks4a and socks5h, the
/// proxy resolves host names.
const SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// The proxies for HTTP and HTTPS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    /// A comma-separated list of hosts that are reached without a proxy.
    exceptions: String,
}

impl Proxies {
    /// Returns settings without proxies: every connection is direct.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads the proxies from the environment of this process.
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if a variable is not a valid proxy URL. The message does not contain the URL, which
    /// may contain a password.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let first = |names: &[&str]| -> Result<Option<Url>> {
            let mut found = None;
            for name in names {
                let parsed = variable(name).map(|value| parse(name, &value)).transpose()?.flatten();
                found = found.or(parsed);
            }
            Ok(found)
        };
        let all = first(&["all_proxy", "ALL_PROXY"])?;
        let http = first(&["http_proxy", "HTTP_PROXY"])?.or_else(|| all.clone());
        let https = first(&["https_proxy", "HTTPS_PROXY"])?.or(all);
        let exceptions = variable("no_proxy").filter(|list| !list.is_empty()).or_else(|| variable("NO_PROXY"));
        let exceptions = exceptions.unwrap_or_default().to_string_lossy().into_owned();
        // As in curl, the hosts in `NO_PROXY` are separated by commas, whitespace or both.
        let hosts = exceptions.split(|c: char| c == ',' || c.is_ascii_whitespace()).filter(|host| !host.is_empty());
        // A host name with a trailing dot refers to the same host, so include both forms.
        let hosts = hosts.map(|host| host.trim_end_matches('.')).flat_map(|host| [host.to_owned(), format!("{host}.")]);
        let exceptions = hosts.collect::<Vec<_>>().join(",");
        if exceptions.split(',').any(|host| host == "*") {
            return Ok(Self::none());
        }
        Ok(Self { http, https, exceptions })
    }

    /// Configures a client to use only these proxies.
    pub(crate) fn apply(&self, client: ClientBuilder) -> ClientBuilder {
        let with = |client: ClientBuilder, proxy: Option<reqwest::Result<Proxy>>| match proxy {
            Some(Ok(proxy)) => client.proxy(proxy.no_proxy(NoProxy::from_string(&self.exceptions))),
            // The URL was validated when the environment was read, so an error cannot occur.
            Some(Err(_)) | None => client,
        };
        let client = with(client.no_proxy(), self.http.clone().map(Proxy::http));
        with(client, self.https.clone().map(Proxy::https))
    }

    /// The hosts of the proxies.
    pub(crate) fn hosts(&self) -> HashSet<String> {
        let urls = self.http.iter().chain(&self.https);
        urls.filter_map(|url| url.host_str().map(str::to_owned)).collect()
    }
}

/// Parses the value of one variable. An empty value means that no proxy is set.
fn parse(name: &str, value: &OsString) -> Result<Option<Url>> {
    let invalid = |reason: &str| {
        Err(Error::usage(format!(
            "{name} {reason}; set it to e.g. http://proxy:3128 or socks5h://proxy:1080, or unset it"
        )))
    };
    let Some(value) = value.to_str() else { return invalid("is not UTF-8") };
    if value.is_empty() {
        return Ok(None);
    }
    if value.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'')) {
        return invalid("contains whitespace, quotes or control characters");
    }
    let url = if value.contains("://") { Url::parse(value) } else { Url::parse(&format!("http://{value}")) };
    match url.map(|url| with_default_port(url, value)) {
        Ok(url) if !SCHEMES.contains(&url.scheme()) => {
            invalid(&format!("does not start with any of {}", SCHEMES.map(|scheme| format!("{scheme}://")).join(", ")))
        }
        Ok(url) if url.host_str().is_none_or(str::is_empty) => invalid("has no host"),
        Ok(url) => Ok(Some(url)),
        Err(error) => invalid(&format!("is not a valid URL ({error})")),
    }
}

/// Adds port 1080, the default in curl, to a proxy URL without a port. An `https` proxy keeps its default port.
fn with_default_port(mut url: Url, text: &str) -> Url {
    // A parsed URL omits the default port of its scheme, so check whether the original text contains the port.
    let has_port = url.port().is_some() || text.trim_end_matches('/').ends_with(":80");
    if !has_port && url.scheme() != "https" {
        // This fails only for a URL without a host, which is rejected later.
        let _ = url.set_port(Some(1080));
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies_from(variables: &[(&str, &str)]) -> Result<Proxies, String> {
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        Proxies::from_variables(variable).map_err(|error| error.to_string())
    }

    fn urls(variables: &[(&str, &str)]) -> (Option<String>, Option<String>) {
        let proxies = proxies_from(variables).unwrap();
        (proxies.http.map(|url| url.to_string()), proxies.https.map(|url| url.to_string()))
    }

    #[test]
    fn each_scheme_has_its_proxy_and_lower_case_wins() {
        let url = |text: &str| Some(text.to_owned());
        assert_eq!(urls(&[("HTTPS_PROXY", "p:1"), ("https_proxy", "http://q:2")]), (None, url("http://q:2/")));
        assert_eq!(
            urls(&[("ALL_PROXY", "socks5h://u:w@p:1"), ("http_proxy", "")]),
            (url("socks5h://u:w@p:1"), url("socks5h://u:w@p:1"))
        );
        assert_eq!(
            urls(&[("http_proxy", "p"), ("https_proxy", "https://q")]),
            (url("http://p:1080/"), url("https://q/"))
        );
        assert_eq!(
            urls(&[("http_proxy", "http://p:80"), ("https_proxy", "http://u:w@q/")]),
            (url("http://p/"), url("http://u:w@q:1080/"))
        );
        assert_eq!(urls(&[("http_proxy", "http://[::1]:3128/")]), (url("http://[::1]:3128/"), None));
    }

    #[test]
    fn an_invalid_proxy_variable_is_rejected_without_showing_its_password() {
        for bad in [
            "http://p:1 ",
            " http://p:1",
            "http://p:1\r",
            "\"http://p:1\"",
            "htp://p:1",
            "http://",
            "http://p:port",
            "p q",
        ] {
            for name in ["http_proxy", "HTTPS_PROXY", "all_proxy"] {
                assert!(proxies_from(&[(name, bad)]).unwrap_err().starts_with(name), "{bad:?}");
            }
        }
        let error_message = proxies_from(&[("http_proxy", "htp://u:hush@p")]).unwrap_err();
        assert!(!error_message.contains("hush"));
        assert!(SCHEMES.iter().all(|scheme| error_message.contains(&format!("{scheme}://"))), "{error_message}");
    }

    #[test]
    fn no_proxy_with_a_star_disables_all_proxies() {
        assert_eq!(proxies_from(&[("ALL_PROXY", "p:1"), ("NO_PROXY", "a, *")]), Ok(Proxies::none()));
        assert_ne!(proxies_from(&[("ALL_PROXY", "p:1"), ("NO_PROXY", "a,b")]), Ok(Proxies::none()));
    }
}
