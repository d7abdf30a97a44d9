use super::*;

#[test]
fn values_are_read_whatever_stands_in_them() {
    let left = Duration::from_millis(7);
    let read = |value| holder(value, left);
    let found = read("1 00000000000000ab 12 500 host:\"1\" http://a/ two  words grün").unwrap();
    assert_eq!(found.identity, "host:\"1\"");
    assert_eq!(found.token.unwrap().as_u64(), 12);
    assert_eq!(found.value.unwrap(), "http://a/ two  words grün");
    assert_eq!(found.expires_in, Some(left));

    assert_eq!(read("1 ab 12 500 host").unwrap().value, None);
    assert_eq!(read("1 ab 12 500 host ").unwrap().value.unwrap(), "");
    assert_eq!(read("1 ab x 500 host").unwrap().token, None);
    for foreign in ["", "1", "1 ab 12", "2 ab 12 500 host", "1 - 0 500 ", "{}"] {
        assert_eq!(read(foreign), None, "{foreign:?}");
    }
}

#[test]
fn the_value_of_another_program_names_its_holder() {
    let left = Duration::from_millis(7);
    let read = |value| other_program(value, left);
    for foreign in ["host:42:ab", "2 ab 12", "{\"v\":1}"] {
        let holder = read(foreign).unwrap();
        assert_eq!(
            (holder.identity.as_str(), holder.expires_in),
            (foreign, Some(left))
        );
    }
    assert_eq!(read("").unwrap().identity, "?");
    let long = "ü".repeat(300);
    assert_eq!(read(&long).unwrap().identity.chars().count(), 253);
    assert_eq!(read("1 - 0 500 "), None, "in quarantine no program has it");
}

#[test]
fn what_is_left_of_a_term_is_at_most_its_lease() {
    let ages = Duration::from_secs(1 << 40);
    let left = |value: &str| holder(value, ages).unwrap().expires_in;
    let lease = Some(Duration::from_millis(500));
    assert_eq!(left("1 ab 12 500 host value"), lease);
    for unreadable in ["0", "x", "", "3600001", "99999999999999999999"] {
        let value = format!("1 ab 12 {unreadable} host");
        assert_eq!(lease_in(&value), None, "{value:?}");
        assert_eq!(left(&value), Some(MAX_LEASE), "{value:?}");
    }
    assert_eq!(lease_in("1 - 0 500 "), lease);
    for foreign in ["", "1", "1 ab 12", "2 ab 12 500 host", "{}"] {
        assert_eq!(lease_in(foreign), None, "{foreign:?}");
    }
}
