//! What people and servers write as text: GTIDs and sets of them, `.env` files, settings.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

use super::{Choices, Random, Target, choices, mutate};
use crate::config::{Config, Sources};
use crate::position::mysql::{Gtid, GtidSet};
use crate::position::{self, mariadb};

const SETS: [&str; 6] = [
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7-9:tag1:1-3:5,3E11FA47-71CA-11E1-9E33-C80AA9429563:1",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-9223372036854775806",
    " 3e11fa47-71ca-11e1-9e33-c80aa9429562 : 5 : 3 - 4 : _tag_0 : 18 ,\n00000000-0000-0000-0000-000000000000:a:1",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:5-3",
    "0-1-100,5-2-7",
    "",
];

fn mutated(random: &mut Random, texts: &[&str]) -> Vec<u8> {
    let mut text = texts[random.usize(..texts.len())].as_bytes().to_vec();
    let other = texts[random.usize(..texts.len())].as_bytes();
    mutate(random, &mut text, other);
    text
}

/// Whatever is read prints as a text that reads as the same, and the same again.
fn same_when_printed<T>(text: &str) -> Option<T>
where
    T: FromStr<Err: Display> + Display + PartialEq,
{
    match text.parse::<T>() {
        Ok(read) => {
            let again = read.to_string().parse::<T>();
            assert!(
                again.is_ok_and(|again| again == read),
                "{text} is printed as {read}"
            );
            Some(read)
        }
        Err(error) => {
            assert!(error.to_string().chars().count() < 300, "{error}");
            None
        }
    }
}

fn gtid_texts(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    same_when_printed::<mariadb::Gtid>(&text);
    if let Some(gtid) = same_when_printed::<Gtid>(&text) {
        let set: GtidSet = gtid.to_string().parse().unwrap();
        assert!(set.contains(&gtid) && set.count() == 1);
    }
    if let Some(set) = same_when_printed::<GtidSet>(&text) {
        assert_eq!(set.union(&set), set);
        assert!(set.is_subset(&set) && set.subtract(&set).is_empty());
    }
    let one = same_when_printed::<position::Gtid>(&text);
    let set = same_when_printed::<position::GtidSet>(&text);
    if let Some(set) = &set {
        assert!(set.is_subset(set) && set.beyond(set).is_none());
        assert!(one.is_none_or(|one| set.contains(&one)));
    }
    set.is_some()
}

#[test]
fn gtids() {
    Target {
        name: "fuzz::texts::gtids",
        make: |random| mutated(random, &SETS),
        check: gtid_texts,
        memory: 256,
    }
    .run(20_000);
}

/// Sets made by choices, beside sets of numbers that cannot be wrong.
fn gtid_sets(input: &[u8]) -> bool {
    const SERVERS: [&str; 3] = [
        "3e11fa47-71ca-11e1-9e33-c80aa9429562",
        "3e11fa47-71ca-11e1-9e33-c80aa9429562:tag",
        "00000000-0000-0000-0000-000000000001",
    ];
    let mut choices = Choices(input);
    let mut sets = [GtidSet::new(), GtidSet::new()];
    let mut models = [BTreeSet::new(), BTreeSet::new()];
    while !choices.is_empty() {
        let (which, server) = (choices.below(2), choices.below(3));
        let number = 1 + choices.below(40) as u64;
        let gtid: Gtid = format!("{}:{number}", SERVERS[server]).parse().unwrap();
        match choices.below(8) {
            0 => {
                let last = number + choices.below(10) as u64;
                let interval = format!("{}:{number}-{last}", SERVERS[server]);
                sets[which] = sets[which].union(&interval.parse().unwrap());
                models[which].extend((number..=last).map(|number| (server, number)));
            }
            1 => {
                let [one, other] = &sets;
                sets[which] = one.subtract(other);
                models[which] = &models[0] - &models[1];
            }
            _ => assert_eq!(
                sets[which].add(&gtid),
                models[which].insert((server, number))
            ),
        }
        for (set, model) in sets.iter().zip(&models) {
            assert_eq!(set.count(), model.len() as u128);
            assert_eq!(set.contains(&gtid), model.contains(&(server, number)));
        }
        assert_eq!(sets[0].is_subset(&sets[1]), models[0].is_subset(&models[1]));
    }
    sets.iter()
        .all(|set| set.to_string().parse().as_ref() == Ok(set))
}

#[test]
fn sets_of_gtids() {
    Target {
        name: "fuzz::texts::sets_of_gtids",
        make: choices,
        check: |input| {
            assert!(gtid_sets(input));
            true
        },
        memory: 256,
    }
    .run(2_000);
}

const ENVS: [&str; 3] = [
    "MYSQL_ADDR=db:3306,[::1]:3307\nMYSQL_USER='sdl'\nMYSQL_PASS=\"dollar$secret\\\"\"\nMONGO_URI=mongodb://u:secret@a,b:27018/?replicaSet=rs0&tls=true\n\
     INCLUDE_REGEX=^shop\\.\nFLUSH_INTERVAL=100ms\nBATCH_BYTES=8MiB\nSTART_FROM=3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5\nTZ=Europe/Berlin",
    "\u{feff}# comment\r\nexport MYSQL_SERVER_ID=7 # seven\r\nMYSQL_TLS=verify-ca\nMYSQL_TLS_CA=/nowhere\n\nRETRY_MAX_DELAY = 10s\nMONGO_COLL=a.b\nSOURCE_ID=x\nRUST_LOG=info,sdl=debug",
    "MYSQL_ADDR=\nMYSQL_ADDR=again\nMYSQL_PASS_FILE=/nowhere\nNO_EQUALS\n='x'\nA='unclosed\nEXCLUDE_REGEX=(((\nPIPELINE_DEPTH=-1\nMAX_VALUE_BYTES=99999999999999999999G",
];

/// A file is taken, or it is told what is wrong with it.
fn dot_env(input: &[u8]) -> bool {
    let file = std::env::temp_dir().join(format!("sdl-fuzz-{}.env", std::process::id()));
    std::fs::write(&file, input).unwrap();
    let none: [(&str, &str); 0] = [];
    let read = Config::from_sources(&Sources::from_environment(none).with_dotenv(&file));
    let told = match &read {
        Ok(config) => format!("{config:?}"),
        Err(errors) => errors.to_string(),
    };
    assert!(!told.is_empty());
    read.is_ok()
}

#[test]
fn dot_env_files() {
    Target {
        name: "fuzz::texts::dot_env_files",
        make: |random| mutated(random, &ENVS),
        check: dot_env,
        memory: 1 << 16,
    }
    .run(1_000);
}
