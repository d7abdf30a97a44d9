//! A wish that a leader resign is an empty file beside the record. Its name says which term is to
//! end, and until when the wish counts: the listing that each heartbeat makes finds it.

use tenure_core::{FencingToken, Time, Wish};

const PREFIX: &str = "resign-";

/// How many digits a number has in the name.
const DIGITS: usize = 20;

/// The name of the file.
pub(crate) fn name_of(wish: Wish) -> String {
    let (token, until) = (wish.token.as_u64(), wish.until.as_nanos());
    format!("{PREFIX}{token:0DIGITS$}-{until:0DIGITS$}")
}

/// The wish with this name.
pub(crate) fn read(name: &str) -> Option<Wish> {
    let (token, until) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let number = |text: &str| {
        let is_ours = text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_digit());
        is_ours.then(|| text.parse::<u64>().ok()).flatten()
    };
    let token = FencingToken::from_counter(number(token)?).ok()?;
    Some(Wish::new(token, Time::from_nanos(number(until)?)))
}

/// The one for the term with `token` that counts longest.
pub(crate) fn for_term(names: &[String], token: FencingToken) -> Option<Wish> {
    let wishes = names.iter().filter_map(|name| read(name));
    let ours = wishes.filter(|wish| wish.token == token);
    ours.max_by_key(|wish| wish.until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_wish_and_nothing_else_is() {
        let token = |number| FencingToken::from_counter(number).unwrap();
        let wish = Wish::new(token(7), Time::from_nanos(123));
        let name = name_of(wish);
        assert_eq!(name, "resign-00000000000000000007-00000000000000000123");
        assert_eq!(read(&name), Some(wish));
        for other in [
            "resign-7-123",
            "resign-",
            "record-00000000000000000007.json",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
        let later = Wish::new(token(7), Time::from_nanos(124));
        let foreign = Wish::new(token(8), Time::from_nanos(999));
        let names = [wish, later, foreign].map(name_of);
        assert_eq!(for_term(&names, token(7)), Some(later));
        assert_eq!(for_term(&names, token(9)), None);
    }
}
