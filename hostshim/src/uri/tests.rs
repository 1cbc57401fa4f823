use super::*;

#[test]
fn uris_are_read_and_written() {
    for text in [
        "shm://market",
        "shm://market/quotes",
        "tcp://127.0.0.1:7000",
        "tcp://[::1]:1/a.b-c_d",
        "udp://host.example-1:65535",
        "tcp://[fe80::1%eth0]:9",
        "verbs://rxe0/10.0.0.1:7000",
        "verbs://mlx5_0:2/[::1]:7000/quotes",
        "mlx5://mlx5_0/h:0",
        "ofi://tcp",
        "ofi://shm/quotes",
        "ofi://tcp;ofi_rxm/h:7000",
        "ofi://udp;ofi_rxd/[::]:7000/quotes",
    ] {
        let uri: Uri = text.parse().unwrap();
        assert_eq!(uri.to_string(), text);
        assert_eq!(uri.transport().as_str(), text.split(':').next().unwrap());
    }
    let uri: Uri = "tcp://h:1".parse().unwrap();
    assert_eq!((uri.endpoint(), uri.endpoint_or_default().as_str()), (None, ENDPOINT));
    let named = uri.with_endpoint(Name::new("quotes").unwrap());
    assert_eq!(named.to_string(), "tcp://h:1/quotes");
}

/// Texts that are wrong in that part first.
const WRONG: &[(Part, &[&str])] = &[
    (Part::Scheme, &["", "tcp", "http://a:1", "tcp:/a:1", "127.0.0.1:7000", "TCP://a:1", "://"]),
    (Part::Domain, &["shm://", "shm:///x", "shm://.x", "shm://a b", "shm://a:1", "shm://\0"]),
    (
        Part::Host,
        &[
            "tcp://",
            "tcp://:1",
            "tcp://[]:1",
            "tcp://[abc]:1",
            "tcp://::1:7000",
            "tcp://[::1:7",
            "udp://u@h:1",
            "tcp://h\u{e4}:1",
            "tcp://h h:1",
            "verbs://rxe0",
            "verbs://rxe0/",
            "mlx5://m/:1",
        ],
    ),
    (
        Part::Port,
        &[
            "tcp://a",
            "tcp://a:",
            "tcp://a:x",
            "tcp://a:65536",
            "tcp://a:-1",
            "tcp://a:+1",
            "tcp://a/b",
            "verbs://rxe0/quotes",
            "ofi://tcp/h:",
            "tcp://a:\u{663}",
        ],
    ),
    (Part::Device, &["verbs://", "verbs:///h:1", "verbs://r;e/h:1", "verbs://:1/h:1"]),
    (
        Part::DevicePort,
        &["verbs://r:0/h:1", "verbs://r:256/h:1", "verbs://r:/h:1", "mlx5://r:x/h:1"],
    ),
    (Part::Provider, &["ofi://", "ofi:///h:1", "ofi://a b/h:1"]),
    (
        Part::Endpoint,
        &[
            "tcp://a:1/",
            "tcp://a:1/b/c",
            "shm://a/",
            "shm://a/b c",
            "ofi://tcp/",
            "verbs://r/h:1/.x",
        ],
    ),
];

#[test]
fn what_is_wrong_is_named_with_the_form() {
    let long = format!("shm://{}", "x".repeat(600));
    let e = long.parse::<Uri>().unwrap_err();
    assert_eq!((e.part(), e.to_string().len() < 420), (Part::Whole, true));
    for (part, texts) in WRONG {
        for text in *texts {
            let e = text.parse::<Uri>().unwrap_err();
            let said = e.to_string();
            assert_eq!(e.part(), *part, "{said}");
            assert!(said.contains("; remedy: write ") && said.len() < 420, "{said}");
            assert!(!said.contains('\0'), "{said:?}");
        }
    }
    let e = "shm://a/b c".parse::<Uri>().unwrap_err().to_string();
    assert!(e.contains("byte 1 of the name is ' '") && e.contains("shm://DOMAIN[/NAME]"), "{e}");
}

/// Whoever wrote it would take the one who answers for the one that was named.
#[test]
fn a_name_where_none_has_one_is_refused() {
    let e = "udp://h:7000/quotes".parse::<Uri>().unwrap_err();
    let said = e.to_string();
    assert_eq!(e.part(), Part::Endpoint, "{said}");
    assert!(said.contains("the name of the endpoint has no place here; remedy: leave it out"));
    assert!(said.contains("udp://HOST:PORT is the one"), "{said}");
    assert_eq!(e.part(), "udp://h:7000/".parse::<Uri>().unwrap_err().part());
}

#[test]
fn the_port_of_a_device_is_that_of_the_plan_where_the_text_has_none() {
    for (text, found, port) in [
        ("verbs://rxe0/h:1", Some("rxe0/2"), Some(2)),
        ("verbs://rxe0:1/h:1", Some("rxe0/2"), Some(1)),
        ("verbs://rxe1/h:1", Some("rxe0/2"), None),
        ("verbs://rxe0/h:1", None, None),
    ] {
        let uri: Uri = text.parse().unwrap();
        let Place::Device { port: got, .. } = uri.on_port_of(found).place().clone() else {
            panic!("{text} is no device");
        };
        assert_eq!(got, port, "{text} {found:?}");
    }
}
