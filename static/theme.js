// Runs before the page is drawn, so that it is not drawn in another theme first.

try {
  document.documentElement.dataset.theme = JSON.parse(localStorage.getItem("chinwag.theme") ?? '""');
} catch {
  // The system's theme will do.
}
