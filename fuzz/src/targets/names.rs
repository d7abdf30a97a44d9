//! Names, numbers and addresses.

use tenure_core::record::Version;
use tenure_core::{CampaignId, Identity, LockName, PublishedValue};
use tenure_kit::Address;
use tenure_kube::WallTime;

use crate::{inputs, plant, rules};

/// One text, taken for each kind of name. What is accepted is shown as it was written.
pub(crate) fn names(input: &[u8]) {
    let Some(text) = inputs::text(input) else {
        return;
    };
    match LockName::new(text) {
        Ok(name) => {
            assert_eq!(name.as_str(), text);
            plant::at(text.len() > 4, text);
        }
        Err(error) => rules::error(&error),
    }
    match Identity::new(text) {
        Ok(name) => assert_eq!(name.as_str(), text),
        Err(error) => rules::error(&error),
    }
    match PublishedValue::new(text) {
        Ok(value) => assert_eq!(value.as_str(), text),
        Err(error) => rules::error(&error),
    }
    if let Some(campaign) = CampaignId::parse(text) {
        assert_eq!(campaign.to_string(), text.to_ascii_lowercase());
    }
    if let Some(version) = Version::parse(text) {
        assert_eq!(version.to_string(), text);
    }
    match Address::parse(text, 1) {
        Ok(address) => {
            let shown = address.to_string();
            assert_eq!(Address::parse(&shown, 2).ok().as_ref(), Some(&address));
        }
        Err(error) => rules::error(&error),
    }
    if let Some(time) = WallTime::parse(text) {
        let shown = time.to_micro_time();
        // A zone can move a time out of the four digits of a year.
        if shown.len() == "2006-01-02T15:04:05.000000Z".len() {
            assert_eq!(WallTime::parse(&shown), Some(time), "{shown}");
        }
    }
}
