//! Whether the API server has kept what was written: admission webhooks and policies may change it.

use serde_json::Value;
use tenure_core::{Error, ErrorKind};
use tenure_kit::limits::shown;

use crate::annotations::annotation;
use crate::errors::Request;
use crate::form::Form;
use crate::term::{TERM_ANNOTATION, Term};

/// What to do about a part that is changed.
pub(crate) const REMEDY: &str = "exempt the object from the admission webhook or policy that changes \
    it (kubectl get mutatingwebhookconfigurations,mutatingadmissionpolicies)";

/// [`Misconfigured`](ErrorKind::Misconfigured) with what `kept`, the answer to the write of `sent`,
/// lacks of what a term depends on. Others would judge by another record than its holder does.
pub(crate) fn altered<F: Form>(request: &Request<'_>, sent: &Value, kept: &Value) -> Option<Error> {
    let (part, stands) = altered_part::<F>(sent, kept)?;
    let message = format!(
        "{part} of {} is not kept as it was written, and no term can last without it: {stands}; \
         {REMEDY}",
        request.target()
    );
    Some(Error::new(
        ErrorKind::Misconfigured,
        request.operation,
        message,
    ))
}

/// The part that is not as it was sent, and what stands there. A longer lease does no harm.
fn altered_part<F: Form>(sent: &Value, kept: &Value) -> Option<(String, String)> {
    let record = |object| F::read(object).ok().flatten().unwrap_or_default();
    let (wrote, found) = (record(sent), record(kept));
    let is_kept = found.holder == wrote.holder
        && found.transitions == wrote.transitions
        && found.renewed == wrote.renewed
        && found.lease_seconds >= wrote.lease_seconds;
    if !is_kept {
        let (holder, renewed) = (shown(&found.holder), found.renewed.unwrap_or_default());
        let stands = format!(
            "it names the holder \"{holder}\" with {} s, renewed at \"{}\"",
            found.lease_seconds,
            shown(&renewed)
        );
        return Some((F::LOCATION.to_owned(), stands));
    }
    let (ours, theirs) = (
        annotation(sent, TERM_ANNOTATION),
        annotation(kept, TERM_ANNOTATION),
    );
    if Term::holder(ours, &wrote) == Term::holder(theirs, &found) {
        return None;
    }
    let stands = theirs.map_or_else(
        || "it is missing".to_owned(),
        |text| format!("it is \"{}\"", shown(text)),
    );
    Some((format!("the annotation {TERM_ANNOTATION}"), stands))
}
