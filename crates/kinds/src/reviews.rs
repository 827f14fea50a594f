//! Kinds that are answered and never stored: reviews of tokens and access.

use k8s_openapi::api::{authentication, authorization};

use crate::columns::AGE;
use crate::plain::{AGE_ONLY, Names};
use crate::schemas::typed;
use crate::{Declared, Scope};

/// The kinds of this file.
pub(crate) fn kinds() -> Vec<Declared> {
    use authorization::v1 as z;
    vec![
        review(
            "authentication.k8s.io",
            "TokenReview",
            "tokenreviews",
            "tokenreview",
            typed::<authentication::v1::TokenReview>,
        ),
        review(
            "authentication.k8s.io",
            "SelfSubjectReview",
            "selfsubjectreviews",
            "selfsubjectreview",
            typed::<authentication::v1::SelfSubjectReview>,
        ),
        review(
            "authorization.k8s.io",
            "SubjectAccessReview",
            "subjectaccessreviews",
            "subjectaccessreview",
            typed::<z::SubjectAccessReview>,
        ),
        review(
            "authorization.k8s.io",
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            "selfsubjectaccessreview",
            typed::<z::SelfSubjectAccessReview>,
        ),
        review(
            "authorization.k8s.io",
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
            "selfsubjectrulesreview",
            typed::<z::SelfSubjectRulesReview>,
        ),
        Declared {
            scope: Scope::Namespaced,
            ..review(
                "authorization.k8s.io",
                "LocalSubjectAccessReview",
                "localsubjectaccessreviews",
                "localsubjectaccessreview",
                typed::<z::LocalSubjectAccessReview>,
            )
        },
    ]
}

fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    schema: fn() -> &'static object::schema::Schema,
) -> Declared {
    let names = Names {
        group,
        version: "v1",
        kind,
        plural,
        singular,
        short_names: &[],
    };
    Declared {
        scope: Scope::Cluster,
        verbs: &["create"],
        ..names.with(schema, const { &[AGE] }, &AGE_ONLY)
    }
}
