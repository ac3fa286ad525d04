// The ESLint rules for the page. `check` runs ESLint in the root of the repository, since ESLint
// ignores files outside its working directory.

import js from "@eslint/js";

const MARKUP = "Messages must never become markup: create elements with element() from text.js.";

export default [
  { ignores: ["static/lean-qr.js"] },
  {
    files: ["static/**/*.js"],
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      ...js.configs.recommended.rules,
      // tsc checks this.
      "no-undef": "off",
      curly: "error",
      eqeqeq: "error",
      "no-eval": "error",
      "no-implied-eval": "error",
      "no-unused-vars": "error",
      "no-var": "error",
      "prefer-const": "error",
      "no-restricted-properties": [
        "error",
        ...["innerHTML", "outerHTML", "insertAdjacentHTML", "setHTMLUnsafe", "createContextualFragment"].map(
          (property) => ({ property, message: MARKUP }),
        ),
        ...["write", "writeln"].map((property) => ({ object: "document", property, message: MARKUP })),
      ],
    },
  },
];
