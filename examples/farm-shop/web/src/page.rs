//! The page. Must not ask the database.

use std::fmt::Write;

use crate::stock::Items;

const STYLE: &str = "body{font:17px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem;\
color:#24301f;background:#f7f5ec}h1{color:var(--accent)}table{width:100%;border-collapse:collapse;background:#fff;\
border-radius:.6rem;overflow:hidden;box-shadow:0 1px 6px #0002}td,th{padding:.55rem 1rem;text-align:left;\
border-bottom:1px solid #eee}td:nth-child(n+2){text-align:right}button{border:0;border-radius:.4rem;padding:.3rem .9rem;\
background:var(--accent);color:#fff;cursor:pointer}button:disabled{background:#bbb}.note{background:#fff2c9;\
padding:.6rem 1rem;border-radius:.5rem}footer{color:#777;font-size:.85rem;margin-top:1.5rem}";

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Version of the front.
pub fn version() -> String {
    variable("SHOP_VERSION", "0")
}

/// The shop.
pub fn shop(items: &Items) -> String {
    let title = escape(&variable("SHOP_TITLE", "Farm shop"));
    let accent = escape(&variable("SHOP_ACCENT", "#3f7d3a"));
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>\
         <meta name=viewport content=\"width=device-width\"><style>:root{{--accent:{accent}}}{STYLE}</style><h1>{title}</h1>"
    );
    if items.trouble.is_some() {
        page += "<p class=note>The storeroom cannot be reached just now. This is what was there last.</p>";
    }
    page += "<table><tr><th>Product<th style=text-align:right>Price<th style=text-align:right>In stock<th></tr>";
    for item in &items.list {
        let (name, whole, cents) = (escape(&item.name), item.price / 100, item.price % 100);
        let disabled = if item.amount > 0 { "" } else { " disabled" };
        let _ = write!(
            page,
            "<tr><td>{name}<td>{whole}.{cents:02}<td>{}<td><form method=post action=/order>\
             <button name=name value=\"{name}\"{disabled}>Buy</button></form></tr>",
            item.amount
        );
    }
    let (version, host) = (escape(&version()), escape(&variable("HOSTNAME", "")));
    page + &format!("</table><footer>version {version} &middot; served by {host}</footer>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
