// Reads a Bundle of FHIR R4 from a file and prints what npm's `fhir` finds wrong with it and its resources, as JSON.
const { readFileSync } = require("node:fs");
const { Fhir } = require("fhir");

const bundle = JSON.parse(readFileSync(process.argv[2], "utf8"));
const found = new Fhir().validate(bundle, { errorOnUnexpected: true }).messages;
process.stdout.write(JSON.stringify(found.map(({ severity, location, message }) => ({ severity, location, message }))));
