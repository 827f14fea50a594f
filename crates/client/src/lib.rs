//! One trait to speak to the API: in-process or HTTPS.
