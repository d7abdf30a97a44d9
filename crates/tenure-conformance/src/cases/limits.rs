//! Names, identities and values at their limits, and many locks at once (hazards 18 and 21).

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tenure_core::{Identity, LockName, Occupancy, PublishedValue};

use crate::case_context::CaseContext;
use crate::contestant::Contestant;
use crate::names::{identity, lock_name};
use crate::target::Target;
use crate::verdict::{Stop, Verdict, ensure, fail};

/// Letters and digits that no other run has, to make long names of.
fn unique(length: usize) -> String {
    let mut text = String::with_capacity(length);
    while text.len() < length {
        text.push(fastrand::alphanumeric().to_ascii_lowercase());
    }
    text
}

/// Names of one character and of 253 bytes, with many dots, in one label, in digits.
pub async fn names_at_their_limits(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let longest = LockName::MAX_BYTES;
    let one_label = unique(longest);
    let mut dotted = unique(longest);
    for dot in (1..longest - 1).step_by(2) {
        dotted.replace_range(dot..=dot, ".");
    }
    let mut hyphens = unique(longest);
    hyphens.replace_range(20..200, &"-".repeat(180));
    let digits: String = (0..40).map(|_| fastrand::digit(10)).collect();
    for name in [one_label, dotted, hyphens, digits] {
        let lock = lock_name(&name)?;
        one_term(&context, &context.contestant(&lock).await?).await?;
    }
    // One character is not unique: another run may hold it for a while.
    let lock = lock_name(&fastrand::lowercase().to_string())?;
    let contestant = context.contestant(&lock).await?.lease(context.short());
    context
        .granted_after(context.long(), &contestant, "a lock with a short name")
        .await?;
    contestant.withdraw().await
}

/// The lock is granted, refused to another, shown to an observer, and released.
async fn one_term(context: &CaseContext<'_>, leader: &Contestant) -> Verdict {
    let grant = leader.held("a fresh lock").await?;
    let rival = context.contestant(&leader.lock).await?;
    rival.refused("a held lock").await?;
    rival.sees(leader, "a held lock").await?;
    leader.renews_and_releases(&grant, "a held term").await?;
    rival.holds_and_releases("a released lock").await
}

/// Two names of equal length that differ in their last character only are two locks.
pub async fn long_names_differ_to_their_end(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let stem = unique(LockName::MAX_BYTES - 1);
    let names = [format!("{stem}a"), format!("{stem}b")];
    independent(&context, &names).await
}

/// Names that are prefixes of each other, or differ in a dot or hyphen, are locks of their own.
pub async fn similar_names_are_different_locks(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let a = format!("a{}", unique(15));
    let names = [
        a.clone(),
        format!("{a}.b"),
        format!("{a}-b"),
        format!("{a}b"),
        format!("{a}.b.c"),
        format!("{a}.b-c"),
        format!("{a}--b"),
        format!("b.{a}"),
        format!("{a}0"),
        format!("{a}00"),
    ];
    independent(&context, &names).await
}

async fn independent(context: &CaseContext<'_>, names: &[String]) -> Verdict {
    let on = context.connect().await?;
    let mut held = Vec::new();
    for name in names {
        let lock = lock_name(name)?;
        let seen = on.holder(&lock).await?;
        ensure!(
            seen == Occupancy::Free,
            "{name} is said to be {seen:?}, while only {:?} are held",
            &names[..held.len()]
        );
        let contestant = context.contestant_on(&on, &lock)?;
        let grant = contestant.held(&format!("a fresh lock {name}")).await?;
        held.push((contestant, grant));
    }
    // From the shortest to the longest, so that a release by prefix hits the others.
    for number in 0..held.len() {
        let (contestant, grant) = &held[number];
        contestant.release(grant).await?;
        for (contestant, grant) in &held[number + 1..] {
            let why = format!("{}, after similar ones were released", contestant.lock);
            contestant.renewed(grant, &why).await?;
        }
    }
    Ok(())
}

/// Identities of 1 and 253 characters, of all visible ASCII characters, and those that need
/// quoting somewhere, come back as they went.
pub async fn identities_at_their_limits(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let all: String = ('!'..='~').collect();
    let upper = "ABC-xyz_".repeat(40);
    let longest = &upper[..Identity::MAX_CHARS];
    #[rustfmt::skip]
    let texts = [
        "x", "0", "-", &all, longest, "\"", "\\", "\\\\n", "{}", "%s%00%20", "${HOME}", "';--", "null",
        "[1]", "a:b/c@d#e?f=g&h", "*", "..", "`id`", "<a>",
    ];
    for text in texts {
        let [leader] = context.contestants().await?;
        one_term(&context, &leader.identity(&identity(text)?)).await?;
    }
    Ok(())
}

/// Identities that differ in case or end only are different candidates.
pub async fn similar_identities_are_different(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let stem = "x".repeat(Identity::MAX_CHARS - 1);
    for (a, b) in [
        ("Pod-A".to_owned(), "pod-a".to_owned()),
        (format!("{stem}1"), format!("{stem}2")),
        ("pod".to_owned(), "pod-1".to_owned()),
    ] {
        let contestants = context.contestants().await?;
        let [one, other]: [Contestant; 2] = contestants;
        let (one, other) = (one.identity(&identity(&a)?), other.identity(&identity(&b)?));
        let grant = one.held("a fresh lock").await?;
        other.refused("a lock held by a similar identity").await?;
        other.sees(&one, "a held lock").await?;
        one.release(&grant).await?;
    }
    Ok(())
}

/// Values of 0 and 1024 bytes, in all scripts, with quotes and spaces, come back as they went.
pub async fn values_at_their_limits(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let longest = "v".repeat(PublishedValue::MAX_BYTES);
    let unicode = "ü€𝄞".repeat(PublishedValue::MAX_BYTES / 9);
    let printable: String = (' '..='~').collect();
    for text in [
        "http://10.0.0.1:8080/?a=b&c=d",
        &longest,
        &unicode,
        &printable,
        "{\"json\": [1, \"\\u0000\"]}",
        " leading and trailing ",
        "'; DROP TABLE x; --",
        "%00 %s \\n",
        "=",
        "null",
    ] {
        let [leader] = context.contestants().await?;
        one_term(&context, &leader.value(text)?).await?;
    }
    // The empty value may come back as none.
    let [leader] = context.contestants().await?;
    let leader = leader.value("")?;
    let grant = leader.held("a fresh lock").await?;
    if let Occupancy::Led(holder) = leader.holder().await? {
        ensure!(
            holder.value.as_deref().unwrap_or_default().is_empty(),
            "an empty value came back as {:?}",
            holder.value
        );
    }
    leader.release(&grant).await
}

const MANY: usize = 1_000;
const AT_ONCE: usize = 32;

/// A thousand locks on one connection are acquired, renewed, looked at and released.
pub async fn a_thousand_locks_on_one_connection(target: &dyn Target) -> Verdict {
    let context = CaseContext::open(target).await?;
    let on = context.connect().await?;
    let stem = unique(12);
    let mut contestants = Vec::new();
    for number in 0..MANY {
        let lock = lock_name(&format!("{stem}.{number}"))?;
        contestants.push(context.contestant_on(&on, &lock)?);
    }
    let held: Vec<_> = stream::iter(&contestants)
        .map(async |contestant| {
            let grant = contestant.held("one of many locks").await?;
            Ok::<_, Stop>((contestant, grant))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let held: Vec<_> = stream::iter(held)
        .map(async |(contestant, grant)| {
            let grant = contestant.renewed(&grant, "one of many terms").await?;
            Ok::<_, Stop>((contestant, grant))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    for (contestant, _) in held.iter().step_by(MANY / 20) {
        match contestant.holder().await? {
            Occupancy::Led(holder) => contestant.is_named(&holder, "one of many locks")?,
            seen => fail!("one of many held locks is said to be {seen:?}"),
        }
        let rival = context.contestant(&contestant.lock).await?;
        rival.refused("one of many held locks").await?;
    }
    stream::iter(held)
        .map(async |(contestant, grant)| {
            contestant.release(&grant).await?;
            contestant.sees_free("one of many released locks").await
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}
