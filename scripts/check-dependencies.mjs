#!/usr/bin/env node
// Checks the locked dependencies: licenses, sources, banned crates, wildcards, the Rust version that
// they need, and which of them need a feature. It reads `cargo metadata` and `cargo tree`, and takes
// a few seconds; cargo-deny takes minutes to build. It does not check security advisories, which need
// a database: see ARCHITECTURE.md.

import { execFileSync } from "node:child_process";

/** Licenses allowed in the program. A crate passes if its SPDX expression can be satisfied with these. */
const LICENSES = [
  "Apache-2.0",
  "Apache-2.0 WITH LLVM-exception",
  "BSD-3-Clause",
  "BSL-1.0",
  // For the list of root certificates in webpki-roots. This data license permits any use and change.
  "CDLA-Permissive-2.0",
  "ISC",
  "MIT",
  "Unicode-3.0",
  "Zlib",
];
const REGISTRY = "registry+https://github.com/rust-lang/crates.io-index";
/** The program uses rustls. A second TLS implementation would need its own security updates. */
const BANNED = ["openssl-sys", "native-tls"];

/** Crates that the program must not contain with any features. Its TLS libraries use aws-lc-rs. */
const NEVER_BUILT = ["ring"];
/** Crates that the program may contain only with the feature `cluster`. */
const BUILT_WITH_CLUSTER = ["async-nats"];

/** Runs cargo and returns its output. */
function cargo(...args) {
  const options = { encoding: "utf8", maxBuffer: 2 ** 28, stdio: ["ignore", "pipe", "inherit"] };
  return execFileSync(process.env.CARGO ?? "cargo", args, options);
}

const metadata = cargo("metadata", "--locked", "--all-features", "--format-version", "1");
const { packages, resolve } = JSON.parse(metadata);
const packageOf = new Map(packages.map((found) => [found.id, found]));
const ours = packageOf.get(resolve.root);
const problems = [];

/** Returns the packages that are part of the program or build it: all except those of tests only. */
function shipped() {
  const nodes = new Map(resolve.nodes.map((node) => [node.id, node]));
  const reached = new Set();
  const open = [resolve.root];
  while (open.length > 0) {
    const id = open.pop();
    if (!reached.has(id)) {
      reached.add(id);
      const used = nodes.get(id).deps.filter((dep) => dep.dep_kinds.some(({ kind }) => kind !== "dev"));
      open.push(...used.map(({ pkg }) => pkg));
    }
  }
  return [...reached].map((id) => packageOf.get(id));
}

/**
 * Returns the names of the crates that are part of the program or build it, on any system. `cargo
 * metadata` does not tell: it also lists optional crates that no feature enables.
 */
function built(...features) {
  const options = ["--target", "all", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"];
  const lines = cargo("tree", "--locked", ...options, ...features).split("\n");
  return new Set(lines.map((line) => line.split(" ")[0]));
}

/** Returns the allowed licenses that satisfy an SPDX expression; empty if they do not. */
function met(expression) {
  // Older manifests write a slash for OR.
  const tokens = expression.replaceAll("/", " OR ").match(/[()]|[^\s()]+/g) ?? [];
  const take = (word) => tokens[0] === word && Boolean(tokens.shift());
  const either = () => {
    let found = both();
    while (take("OR")) {
      const other = both();
      found = [...found, ...other];
    }
    return found;
  };
  const both = () => {
    let found = one();
    while (take("AND")) {
      const other = one();
      found = found.length > 0 && other.length > 0 ? [...found, ...other] : [];
    }
    return found;
  };
  const one = () => {
    if (take("(")) {
      const found = either();
      return take(")") ? found : [];
    }
    const license = [tokens.shift(), ...(tokens[0] === "WITH" ? tokens.splice(0, 2) : [])].join(" ");
    return LICENSES.includes(license) ? [license] : [];
  };
  const found = either();
  return tokens.length === 0 ? found : [];
}

const used = new Set();
const all = shipped();
for (const { name, version, license } of all) {
  const found = met(license ?? "");
  found.forEach((allowed) => used.add(allowed));
  if (found.length === 0) {
    problems.push(`${name} ${version} has the license ${license}, which is not allowed`);
  }
}
for (const license of LICENSES.filter((allowed) => !used.has(allowed))) {
  problems.push(`no crate needs the license ${license} any more; remove it from this script`);
}

const minor = (version) => Number((version ?? "1.0").split(".")[1]);
for (const { id, name, version, source, rust_version } of packages) {
  if (id !== ours.id && source !== REGISTRY) {
    problems.push(`${name} ${version} comes from ${source}, not from crates.io`);
  }
  if (BANNED.includes(name)) {
    problems.push(`${name} is banned`);
  }
  if (minor(rust_version) > minor(ours.rust_version)) {
    problems.push(`${name} ${version} needs Rust ${rust_version}; ours is ${ours.rust_version}`);
  }
}
for (const { name } of ours.dependencies.filter(({ req }) => req === "*")) {
  problems.push(`the version of ${name} is a wildcard`);
}

const [builtByDefault, builtWithAll] = [built(), built("--all-features")];
for (const name of NEVER_BUILT.filter((name) => builtWithAll.has(name))) {
  problems.push(`${name} is built with --all-features; it must not be part of the program`);
}
for (const name of BUILT_WITH_CLUSTER) {
  if (builtByDefault.has(name)) {
    problems.push(`${name} is built without the feature cluster`);
  }
  if (!builtWithAll.has(name)) {
    problems.push(`${name} is not built with the feature cluster; remove it from this script`);
  }
}

if (problems.length > 0) {
  problems.forEach((problem) => console.error(`error: ${problem}`));
  process.exit(1);
}
console.log(`${packages.length - 1} crates, ${all.length - 1} of them shipped: all allowed`);
