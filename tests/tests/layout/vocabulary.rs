//! One word, one meaning: the words that no name may use, and the word that stands for each thing.

use crate::source::{Declared, Kind, Source, words};

/// A word that is refused, and where.
struct Refused {
    word: &'static str,
    within: Within,
    /// The word to use.
    instead: &'static str,
}

#[derive(Clone, Copy)]
enum Within {
    /// In every name.
    AnyName,
    /// An everyday word: in names of types, modules and files, and as the whole of another name.
    Things,
    /// As the whole name of a public function.
    PublicFunction,
    /// As the whole name of a function of a configuration.
    Setting,
}

const fn refused(word: &'static str, within: Within, instead: &'static str) -> Refused {
    Refused {
        word,
        within,
        instead,
    }
}

use Within::{AnyName, PublicFunction, Setting, Things};

const REFUSED: [Refused; 39] = [
    refused("trouble", AnyName, "StoreError"),
    refused("cure", AnyName, "Recovery"),
    refused("cause", Things, "StoreError or Recovery"),
    refused("order", Things, "Instruction"),
    refused("hub", AnyName, "Notifications"),
    refused("wakeup", AnyName, "Notifications"),
    refused("watches", AnyName, "Notifications"),
    refused("hint", Things, "notification"),
    refused("link", AnyName, "Connector or Connection"),
    refused("live", Things, "Connection"),
    refused("dialer", AnyName, "Connector"),
    refused("keeper", AnyName, "Connector"),
    refused("way", Things, "Connector or Connection"),
    refused("epoch", AnyName, "incarnation"),
    refused("reign", AnyName, "incarnation"),
    refused("pause", Things, "quarantine, or backoff between attempts"),
    refused("overlap", Things, "quarantine"),
    refused("quiet_until", AnyName, "quarantine"),
    refused("restart_grace", AnyName, "quarantine"),
    refused("word", Things, "Confirmation"),
    refused("slot", AnyName, "HeldLock"),
    refused("seat", AnyName, "HeldLock"),
    refused("place", Things, "HeldLock"),
    refused("mark", Things, "fence"),
    refused("finding", AnyName, "Check, checks"),
    refused("diagnose", AnyName, "checks"),
    refused("open", PublicFunction, "connect or lazy"),
    refused("begin", PublicFunction, "connect or lazy"),
    refused("authorities", Setting, "ca"),
    refused("authority", Setting, "ca"),
    refused("identity", Setting, "client_cert and client_key"),
    refused("certificate", Setting, "client_cert"),
    refused("cert", Setting, "client_cert"),
    refused("tls_server_name", Setting, "server_name"),
    refused("username", Setting, "user"),
    refused("response_timeout", Setting, "request_timeout"),
    refused("subject", AnyName, "Target"),
    refused("stage", Things, "CaseContext"),
    refused("player", AnyName, "Contestant"),
];

/// Names that may use a refused word, and why.
struct Exception {
    /// The path of the file, or how it begins.
    path: &'static str,
    word: &'static str,
    reason: &'static str,
}

const EXCEPTIONS: [Exception; 13] = [
    Exception {
        path: "crates/tenure-core/src/election/",
        word: "cause",
        reason: "the public `Cause`: why a term ended",
    },
    Exception {
        path: "crates/tenure-core/src/election/",
        word: "pause",
        reason: "the wait after a failed call: the core knows no incarnations",
    },
    Exception {
        path: "crates/tenure-core/src/record/",
        word: "mark",
        reason: "the public `Mark`: what changes with a renewal, and with no other write",
    },
    Exception {
        path: "crates/tenure-kube/src/election_record.rs",
        word: "mark",
        reason: "the core's `Mark` of this record",
    },
    Exception {
        path: "crates/tenure-core/src/contract/capabilities.rs",
        word: "order",
        reason: "the public `Order`: who of those that wait wins, Fifo or Race",
    },
    Exception {
        path: "crates/tenure-core/src/contract/capabilities.rs",
        word: "wakeup",
        reason: "the public `Wakeup`: whether the store wakes those that wait, or they ask",
    },
    Exception {
        path: "crates/tenure-core/src/",
        word: "hint",
        reason: "the public `Hint`: what one notification says about a lock",
    },
    Exception {
        path: "crates/tenure-conformance/src/cases/",
        word: "hint",
        reason: "the cases of the public `Hint`",
    },
    Exception {
        path: "crates/tenure-conformance/src/proxy/",
        word: "way",
        reason: "the public `Way`: which of the two ways of a connection a fault is on",
    },
    Exception {
        path: "crates/tenure-kube/src/rbac.rs",
        word: "subject",
        reason: "the word of Kubernetes for whom a RoleBinding gives rights to",
    },
    Exception {
        path: "crates/tenure-redis/src/topology/",
        word: "slot",
        reason: "the word of Redis Cluster for a part of its keys",
    },
    Exception {
        path: "crates/tenure-postgres/src/backend.rs",
        word: "begin",
        reason: "SQL's BEGIN: a transaction, not a connection",
    },
    Exception {
        path: "crates/tenure-file/src/record_file.rs",
        word: "link",
        reason: "a hard link of the file system",
    },
];

/// What is wrong with the names of these files, and which exceptions nothing needs.
pub(crate) fn violations(sources: &[&Source]) -> Vec<String> {
    let mut used = [false; EXCEPTIONS.len()];
    let mut wrong = Vec::new();
    for source in sources {
        let file = source.path.rsplit('/').next().unwrap_or_default();
        let file = Declared {
            line: 1,
            kind: Kind::Module,
            is_public: false,
            name: file.strip_suffix(".rs").unwrap_or(file),
        };
        for declared in source.declared().into_iter().chain([file]) {
            let Some(refused) = REFUSED.iter().find(|word| word.is_in(&declared, source)) else {
                continue;
            };
            let excepted = |exception: &Exception| {
                source.path.starts_with(exception.path) && refused.word == exception.word
            };
            match EXCEPTIONS.iter().position(excepted) {
                Some(index) => used[index] = true,
                None => wrong.push(format!(
                    "{}:{}: {} has the word \"{}\"; use {}",
                    source.path, declared.line, declared.name, refused.word, refused.instead
                )),
            }
        }
    }
    for (exception, _) in EXCEPTIONS.iter().zip(used).filter(|(_, used)| !used) {
        wrong.push(format!(
            "the exception for \"{}\" in {} ({}) is not needed any more; delete it",
            exception.word, exception.path, exception.reason
        ));
    }
    wrong
}

impl Refused {
    fn is_in(&self, declared: &Declared<'_>, source: &Source) -> bool {
        let name = words(declared.name).join(" ");
        let word = words(self.word).join(" ");
        let forms = [format!("{word}s"), word];
        let has = || {
            let name = format!(" {name} ");
            forms.iter().any(|word| name.contains(&format!(" {word} ")))
        };
        let is_whole = forms.contains(&name);
        let is_function = declared.kind == Kind::Function;
        match self.within {
            AnyName => has(),
            Things if matches!(declared.kind, Kind::Type | Kind::Module) => has(),
            Things => is_whole,
            PublicFunction => is_function && declared.is_public && is_whole,
            Setting => {
                let settings = ["/config.rs", "/tls.rs"];
                is_function && is_whole && settings.iter().any(|file| source.path.ends_with(file))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(path: &str, text: &str) -> Vec<String> {
        let source = Source {
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let mut wrong = violations(&[&source]);
        wrong.retain(|message| !message.contains("is not needed any more"));
        wrong
    }

    #[test]
    fn a_refused_word_is_told_with_file_line_and_the_word_to_use() {
        assert_eq!(
            wrong(
                "crates/tenure-x/src/a.rs",
                "\n/// One.\npub struct ConnectionTrouble;\n"
            ),
            [
                "crates/tenure-x/src/a.rs:3: ConnectionTrouble has the word \"trouble\"; use \
                 StoreError"
            ]
        );
        assert_eq!(wrong("crates/tenure-x/src/hub.rs", "").len(), 1);
        assert_eq!(
            wrong("crates/tenure-x/src/a.rs", "fn quiet_until() {}").len(),
            1
        );
        assert_eq!(
            wrong("crates/tenure-x/src/a.rs", "pub async fn open() {}").len(),
            1
        );
        assert_eq!(
            wrong("crates/tenure-x/src/tls.rs", "fn identity() {}").len(),
            1
        );
    }

    #[test]
    fn everyday_words_are_refused_as_names_of_things_only() {
        let path = "crates/tenure-x/src/a.rs";
        assert_eq!(wrong(path, "struct LockPlace;").len(), 1);
        assert_eq!(wrong(path, "fn places() {}").len(), 1);
        assert_eq!(wrong(path, "fn in_its_place() {}"), [""; 0]);
        assert_eq!(wrong(path, "fn identity() {}"), [""; 0]);
        assert_eq!(wrong(path, "struct Replacement; fn replace() {}"), [""; 0]);
    }

    #[test]
    fn an_exception_counts_where_it_stands_only_and_only_while_it_is_needed() {
        assert_eq!(
            wrong(
                "crates/tenure-core/src/election/cause.rs",
                "pub enum Cause {}"
            ),
            [""; 0]
        );
        assert_eq!(
            wrong("crates/tenure-etcd/src/errors.rs", "pub enum Cause {}").len(),
            1
        );
        assert_eq!(violations(&[]).len(), EXCEPTIONS.len());
    }
}
